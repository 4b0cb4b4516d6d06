"""The operator's command, ``autoscaler``."""
