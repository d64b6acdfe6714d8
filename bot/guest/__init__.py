"""What happens inside a tenant: the blueprint that it is cloned from, and the bot's requests to its Mautic."""
