"""What every process shares: messages, bus, clock, configuration and the hypervisor."""
