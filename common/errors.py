"""Every error that the autoscaler raises on purpose, in one tree.

A message shows the value and what is allowed. ``exit_code`` is what a command or a service
ends with when the error reaches its top.
"""


class AutoscalerError(Exception):
    """Something the operator can understand and act on."""

    exit_code = 1


class ConfigError(AutoscalerError):
    """The configuration or the command line asks for something impossible."""

    exit_code = 2


class ProtocolError(AutoscalerError):
    """A message does not follow the protocol of ``common.messages``."""


class BusError(AutoscalerError):
    """The message bus cannot be opened, or a request got no answer in time."""


class NoAnswerError(BusError):
    """Nobody answered a request in time, and it is not known why."""


class LockHeldError(AutoscalerError):
    """Another copy of this service holds its lock."""

    exit_code = 75


class RecordingError(AutoscalerError):
    """The recording is missing, or written in a format that this program does not read."""


class HypervisorError(AutoscalerError):
    """libvirt refused or failed a call."""


class DomainGoneError(HypervisorError):
    """The domain no longer exists; for most steps that means: done."""


class HypervisorBusyError(HypervisorError):
    """The call did not finish in time; whether it took effect is unknown."""


class HypervisorLostError(HypervisorError):
    """The connection to the host is gone; nothing is known about its domains."""
