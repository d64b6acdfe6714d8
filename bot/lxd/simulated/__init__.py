"""An LXD server that is none, in memory: with the awkward answers of the real one, for speed, faults and scale."""
