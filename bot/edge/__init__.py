"""The edge, a reverse proxy in front of the tenants of a host: its configuration, one edge, and all edges."""
