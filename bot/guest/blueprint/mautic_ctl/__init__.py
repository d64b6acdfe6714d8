"""The tool that runs inside a tenant; see `main`. Tenants keep a copy of this file, so it stays short and stable."""
