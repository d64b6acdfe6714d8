"""Reports about the fleet for people: the condition of each tenant, the digest with its chart, page pictures."""
