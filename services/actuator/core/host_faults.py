"""A fault of a host, told by the domains that it has paused: one fault, however many they are."""

from dataclasses import dataclass
from enum import StrEnum

from common import names
from common.domain import DiskTrouble, DomainState
from common.domain_states import IO_ERROR
from services.actuator.core.past import is_shaky
from services.actuator.core.seen import SeenDomain, SeenHost

NAMED = 4


class Cause(StrEnum):
    """What the host's disks lack."""

    NO_SPACE = "no-space"
    IO_ERROR = "io-error"


@dataclass(frozen=True, slots=True)
class HostFault:
    """What keeps domains of a host from running. ``since_s``: monotonic, when the first was seen so, None if unknown.

    ``is_known``: libvirt has told which disks.
    """

    host: str
    cause: Cause
    domains: tuple[str, ...]
    places: tuple[str, ...]
    since_s: float | None = None
    is_known: bool = False

    @property
    def text(self) -> str:
        """Return the fault in words, with disks and domains."""
        where = f" ({', '.join(self.places)})" if self.places else ""
        if self.cause is Cause.NO_SPACE:
            return f"no space on a disk of host {self.host}{where}; paused by it: {_few(self.domains)}"
        return f"a disk on host {self.host} cannot be read or written{where}; paused by it: {_few(self.domains)}"


def fault_of(host: SeenHost, prefix: str, now_s: float) -> HostFault | None:
    """Return the fault of a host's disks that is there now, None without one; a silent host has none to tell.

    Args:
        host: As it was seen.
        prefix: Of the group's domains: what happens to the disks of others says nothing of its own.
        now_s: Monotonic seconds.
    """
    own = [domain for domain in host.domains if names.domain_index(prefix, domain.name) is not None]
    hit = [domain for domain in own if is_hit(domain, now_s)] if host.is_reachable else []
    if not hit:
        return None
    troubles = [(domain, trouble) for domain in hit if domain.past is not None for trouble in domain.past.troubles]
    places = sorted({_place(domain, trouble) for domain, trouble in troubles})
    since_s = [d.past.faulted_s for d in hit if d.past is not None and d.past.faulted_s is not None]
    return HostFault(
        host=host.name,
        cause=Cause.NO_SPACE if any(trouble.is_full for _, trouble in troubles) else Cause.IO_ERROR,
        domains=tuple(sorted(domain.name for domain in hit)),
        places=tuple(places[:NAMED]),
        since_s=min(since_s, default=None),
        is_known=bool(troubles),
    )


def is_hit(domain: SeenDomain, now_s: float) -> bool:
    """Return whether an I/O error keeps the domain from running, or did a moment ago, before it was resumed."""
    if domain.power is DomainState.PAUSED:
        return domain.power_reason == IO_ERROR
    return is_shaky(domain.past, now_s)


def _place(domain: SeenDomain, trouble: DiskTrouble) -> str:
    return f"{trouble.disk} of {domain.name}" + (f": {trouble.path}" if trouble.path else "")


def _few(names: tuple[str, ...]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
