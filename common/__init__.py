"""What every process shares: messages, bus, clock, configuration and the hypervisor."""

__version__ = "0.1.0"
