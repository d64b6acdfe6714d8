"""What exists, and how it is:

hosts and tenants as LXD tells of them, what they have room for, whether they are well."""
