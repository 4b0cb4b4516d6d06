"""Decides; touches nothing. ``deliver.handle`` is the door."""
