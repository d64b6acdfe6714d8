"""Input from Slack: events, commands, buttons and windows, the Home tab, and the manifest that requests them."""
