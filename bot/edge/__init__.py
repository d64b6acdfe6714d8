"""The reverse proxy in front of the tenants of a host: its configuration, one of them, all of them."""
