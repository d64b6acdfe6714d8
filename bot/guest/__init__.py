"""Inside a tenant: the blueprint that it is cloned from, and what the bot asks of Mautic there."""
