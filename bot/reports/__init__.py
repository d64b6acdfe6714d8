"""What people read about the fleet as a whole: the condition of each tenant, the digest, its chart."""
