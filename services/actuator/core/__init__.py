"""What the actuator decides: pure, remembers nothing, reads no clock."""
