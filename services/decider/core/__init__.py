"""Decides; touches nothing. ``group.handle`` is the door."""
