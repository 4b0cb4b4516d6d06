"""Decides; touches nothing. ``retention.to_drop`` is the door."""
