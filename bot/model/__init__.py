"""The domain model: names, labels, plans, findings, text. Pure: no module here reads a file, a clock or a server."""
