"""The LXD or Incus daemon that the bot installs and runs for itself on a machine that has none."""
