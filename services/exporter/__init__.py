"""Metrics for Prometheus: what travels on the bus, as one page to scrape."""
