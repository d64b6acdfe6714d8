"""How operations run: commands and their context, approvals and guards, steps, cutover, jobs."""
