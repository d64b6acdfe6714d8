"""What the bot is about: names, labels, plans, findings, text. Pure: nothing here asks a file, a clock or a server."""
