"""One LXD or Incus server as the bot uses it: the protocol, the connection, and the server's peculiarities."""
