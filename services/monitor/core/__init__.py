"""Pure: what a host's counters and events mean."""
