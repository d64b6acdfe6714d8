"""What tenants are cloned from: the recipe of the golden image, its builder, and the tool inside a tenant."""
