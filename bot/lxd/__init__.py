"""One LXD or Incus server, as the bot uses it: the protocol, the connection, and what has to be known of its ways."""
