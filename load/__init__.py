"""An open-loop load for the demo, on locust."""
