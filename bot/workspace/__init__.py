"""A simulated Slack workspace on this machine, to which an unmodified Bolt app connects."""
