"""Mautic operations by Slack: one LXD system container a tenant."""
