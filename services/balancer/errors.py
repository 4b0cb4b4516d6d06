"""What HAProxy may answer instead of what was asked."""

from common.errors import AutoscalerError


class ProxyError(AutoscalerError):
    """HAProxy understood and refused, or answered something that is no answer."""


class ProxyLostError(AutoscalerError):
    """HAProxy does not answer: its socket is absent, refuses, breaks off or stays silent until the deadline."""
