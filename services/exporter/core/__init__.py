"""Decides; touches nothing. ``metrics.handle`` and ``render.render`` are the doors."""
