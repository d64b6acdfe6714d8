"""The fleet as LXD reports it: hosts and tenants, the free capacity of hosts, and the health of both."""
