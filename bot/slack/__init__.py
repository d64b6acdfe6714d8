"""What the bot says: messages, who reads them, cards that follow their operations, incidents."""
