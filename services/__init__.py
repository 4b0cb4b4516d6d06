"""The processes; each imports ``common`` and itself, and meets the others only in messages."""
