"""Mautic operations from Slack: one LXD system container per tenant."""
