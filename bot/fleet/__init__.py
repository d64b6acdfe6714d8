"""What exists, and how it is: hosts and tenants as LXD tells of them, what hosts have room for, who is well."""
