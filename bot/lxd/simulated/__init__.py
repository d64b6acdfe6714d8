"""A simulated LXD server in memory, with the awkward answers of a real one: for speed, faults and scale."""
