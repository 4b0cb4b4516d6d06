"""The monitor: samples every domain each interval, and tells of a failure the moment it happens."""
