"""What the balancer decides, without I/O."""
