"""The flight recorder: writes every message of the bus to disk, and says nothing."""
