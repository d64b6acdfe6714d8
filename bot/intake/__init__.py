"""What the bot hears from Slack: its events, commands and presses, Home, and the manifest that asks for them."""
