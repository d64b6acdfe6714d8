"""The LXD daemon that the bot installs and runs for itself, where a machine has none."""
