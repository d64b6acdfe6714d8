"""The in-tenant tool; see `main`. A tenant holds this file too, so it says no more, and nothing that changes."""
