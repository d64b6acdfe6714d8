"""Everything that tenants are made from: the blueprint's recipe and builder, and the tool that runs in a tenant."""
