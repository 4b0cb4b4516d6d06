"""Notifications: events of the bus to webhooks and commands, at least once."""
