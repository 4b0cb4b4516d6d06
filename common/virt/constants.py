"""libvirt's numbers as words: pure, built from the names of its constants.

``VIR_DOMAIN_PAUSED_IOERROR`` becomes state ``paused``, reason ``ioerror``; a number that this version of libvirt does
not know becomes ``unknown``.
"""

from collections.abc import Mapping
from typing import Any, Final

from common.domain import DomainState

_STATES: Final = {
    "RUNNING": DomainState.RUNNING,
    "BLOCKED": DomainState.RUNNING,
    "PAUSED": DomainState.PAUSED,
    "PMSUSPENDED": DomainState.PAUSED,
    "SHUTDOWN": DomainState.STOPPING,
    "SHUTOFF": DomainState.SHUTOFF,
    "CRASHED": DomainState.CRASHED,
}
_EVENTS: Final = {
    "DEFINED": "defined",
    "UNDEFINED": "undefined",
    "STARTED": "started",
    "SUSPENDED": "paused",
    "RESUMED": "resumed",
    "STOPPED": "stopped",
    "SHUTDOWN": "shutdown",
    "PMSUSPENDED": "paused",
    "CRASHED": "crashed",
}
_TELLING: Final = {
    ("stopped", "crashed"): "crashed",
    ("stopped", "failed"): "failed",
    ("crashed", "panicked"): "panicked",
}


class LibvirtNames:
    """Translates states, reasons and events."""

    def __init__(self, constants: Mapping[str, Any]) -> None:
        """Read the constants: the namespace of libvirt's module."""
        self._constants = {name: value for name, value in constants.items() if isinstance(value, int)}
        self._states: dict[int, DomainState] = self._numbered("VIR_DOMAIN_", _STATES)
        self._events: dict[int, str] = self._numbered("VIR_DOMAIN_EVENT_", _EVENTS)
        self._reasons = self._families("VIR_DOMAIN_", _STATES)
        self._details = self._families("VIR_DOMAIN_EVENT_", _EVENTS)

    def state(self, number: int) -> DomainState:
        """Return a domain's state."""
        return self._states.get(number, DomainState.UNKNOWN)

    def reason(self, state: int, reason: int) -> str:
        """Return why the domain is in that state, such as ``ioerror``."""
        if state == self._constants.get("VIR_DOMAIN_PMSUSPENDED"):
            return "pmsuspended"
        return self._reasons.get(state, {}).get(reason, "unknown")

    def event(self, event: int, detail: int) -> tuple[str, str]:
        """Return kind and detail of a lifecycle event; where the detail tells more, it is the kind."""
        kind = self._events.get(event, "unknown")
        text = self._details.get(event, {}).get(detail, "unknown")
        return _TELLING.get((kind, text), kind), text

    def _numbered(self, prefix: str, words: Mapping[str, Any]) -> dict[int, Any]:
        return {
            self._constants[prefix + word]: value for word, value in words.items() if prefix + word in self._constants
        }

    def _families(self, prefix: str, words: Mapping[str, Any]) -> dict[int, dict[int, str]]:
        """Return, by a family's number, the words behind the numbers of its members."""
        return {
            self._constants[prefix + word]: {
                value: name.removeprefix(f"{prefix}{word}_").lower().replace("_", "-")
                for name, value in self._constants.items()
                if name.startswith(f"{prefix}{word}_")
            }
            for word in words
            if prefix + word in self._constants
        }
