"""What the bot is about, without a world:

names, labels, plans, findings, text. Pure: nothing here reads a file, a clock or a server."""
