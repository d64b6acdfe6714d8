"""Slack: messages and who reads them, cards that follow their operations, and incidents."""
