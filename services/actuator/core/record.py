"""What stands about a domain in its own metadata: the only memory the actuator has.

A killed actuator, or one on another machine, rebuilds everything by reading these records. A record names the UUID of
the domain it was written for: a clone made with other tools carries a copy of our element, and is not ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from common import figures
from common.domain import MAX_VALUE
from common.endpoint import is_address
from common.phases import Phase
from common.plain import plain

CREATED_BY: Final = "libvirt-autoscaler"
CLONED: Final = "clone"
ORDERS: Final = ("", "drain", "replace")
STORED_AS: Final = {Phase.SUSPENDED: Phase.WARMING}
"""Phases that release 0.1.0 does not know: it reads the older one, ``stored_phase`` tells the newer."""
MAX_SLOT: Final = 65_535
MAX_WHY: Final = 160
HAS_SERVED: Final = frozenset({Phase.READY, Phase.DRAINING})
"""What a domain that carries an older release's record is in, if it has served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One domain's metadata, typed.

    ``since_mono_s`` compares with this machine's monotonic clock only while ``boot_id`` is the current one.
    ``order`` is what an operator asked for this domain; ``stop_calls`` counts the shutdown requests sent to it;
    ``is_boosted`` says that it boots without its CPU quota. ``tier`` is how it waits for service: one of ``paused`` or
    ``saved`` does so in reserve until it is ``is_woken``. ``is_cloned``: it goes on from a snapshot. ``base``: what
    its overlay stands on (``disks.identity``), empty without one. ``cpu_quota`` is the one last written where it is not
    the configured one: a burst. ``decided_mono_s`` is when it was decided that it is wanted, ``probed_mono_s`` when it
    last answered as itself, ``served_mono_s`` when it first came into rotation, None where it never has since it was
    started. ``failures`` counts how often it failed since it was last in rotation. ``address``: where a user's domain
    last answered as itself. ``is_kept``: it has failed, and we pause it for a look. ``stop_terms``: what its group's
    file said about its shutdown when this phase began (``leaving.terms``). ``is_owners``: its owner has started it, and
    the decider has not counted it since (``members.is_uncounted``). ``replaces`` is the UUID of whom it stands in for.
    """

    group: str
    uuid: str
    host: str
    phase: Phase
    since_mono_s: float
    since_s: float
    boot_id: str
    slot: int | None = None
    started_mono_s: float | None = None
    protected: bool = False
    cause: str = ""
    template: str = ""
    base: str = ""
    generation: int = 0
    order: str = ""
    stop_calls: int = 0
    is_boosted: bool = False
    note: str = ""
    tier: str = ""
    is_cloned: bool = False
    is_woken: bool = False
    cpu_quota: float | None = None
    decided_mono_s: float | None = None
    probed_mono_s: float | None = None
    served_mono_s: float | None = None
    failures: int = 0
    is_kept: bool = False
    address: str = ""
    stop_terms: str = ""
    is_owners: bool = False
    replaces: str = ""

    @property
    def has_served(self) -> bool:
        """Return whether it has been in rotation since it was started, or since it last stood by."""
        return self.served_mono_s is not None

    @property
    def way(self) -> str:
        """Return how it came to service or waits for it, see ``messages.Member.tier``."""
        return self.tier or (CLONED if self.is_cloned else "")

    def to_metadata(self) -> dict[str, str]:
        """Return the attributes to write into the domain."""
        return {
            "group": self.group,
            "uuid": self.uuid,
            "host": self.host,
            "phase": STORED_AS.get(self.phase, self.phase).value,
            "stored_phase": self.phase.value if self.phase in STORED_AS else "",
            "since_mono_s": f"{self.since_mono_s:.3f}",
            "since_s": f"{self.since_s:.3f}",
            "boot_id": self.boot_id,
            "slot": "" if self.slot is None else str(self.slot),
            "started_mono_s": "" if self.started_mono_s is None else f"{self.started_mono_s:.3f}",
            "protected": "1" if self.protected else "0",
            "cause": self.cause,
            "created_by": CREATED_BY,
            "template": self.template,
            "base": self.base,
            "generation": str(min(self.generation, figures.MAX_GENERATION)),
            "order": self.order,
            "stop_calls": str(self.stop_calls),
            "boosted": "1" if self.is_boosted else "0",
            "note": self.note,
            "tier": self.way,
            "cloned": "1" if self.is_cloned else "0",
            "woken": "1" if self.is_woken else "0",
            "cpu_quota": "" if self.cpu_quota is None else f"{self.cpu_quota:.2f}",
            "decided_mono_s": "" if self.decided_mono_s is None else f"{self.decided_mono_s:.3f}",
            "probed_mono_s": "" if self.probed_mono_s is None else f"{self.probed_mono_s:.3f}",
            "served_mono_s": "" if self.served_mono_s is None else f"{self.served_mono_s:.3f}",
            "failures": str(self.failures),
            "kept": "1" if self.is_kept else "0",
            "address": self.address,
            "stop_terms": self.stop_terms,
            "owners": "1" if self.is_owners else "0",
            "replaces": self.replaces,
        }

    def enter(self, phase: Phase, now_s: float, epoch_s: float, boot_id: str) -> "Record":
        """Return the record of a domain that enters ``phase`` now."""
        return replace(self, phase=phase, since_mono_s=now_s, since_s=epoch_s, boot_id=boot_id, stop_calls=0)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that cannot be true, and why: its domain is nobody's to touch, and keeps its network ``slot``."""

    why: str
    slot: int | None = None


def parse(metadata: Mapping[str, str]) -> Record | None:
    """Return the record in a domain's metadata, None if there is none or if it is not one of ours.

    A record that cannot be understood, or cannot be true, is treated as no record: the domain is left alone.
    """
    found = read(metadata)
    return found if isinstance(found, Record) else None


def read(metadata: Mapping[str, str]) -> Record | Unreadable:
    """Return the record in a domain's metadata, its figures bounded and its texts plain; or why it is none."""
    texts = {key: plain(value, MAX_VALUE) for key, value in metadata.items()}
    try:
        return _record(texts)
    except KeyError as error:
        why = f"{error.args[0]} is missing"
    except ValueError as error:
        why = plain(str(error), MAX_WHY)
    try:
        slot = _whole(texts, "slot", MAX_SLOT)
    except ValueError:
        slot = None
    return Unreadable(why, slot)


def _record(texts: Mapping[str, str]) -> Record:
    """Return the record in these texts.

    Raises:
        KeyError: one is missing that every release wrote.
        ValueError: a figure is none, not finite or beyond what can be; or a phase is unknown.
    """
    order, tier = texts.get("order", ""), texts.get("tier", "")
    return Record(
        group=texts["group"],
        uuid=texts["uuid"],
        host=texts.get("host", ""),
        phase=_phase(texts),
        since_mono_s=_figure(texts, "since_mono_s", -figures.MAX_MONO_S, figures.MAX_MONO_S),
        since_s=_figure(texts, "since_s", 0.0, figures.MAX_EPOCH_S),
        boot_id=texts["boot_id"],
        slot=_whole(texts, "slot", MAX_SLOT),
        started_mono_s=_mono_s(texts, "started_mono_s"),
        protected=texts.get("protected") == "1",
        cause=texts.get("cause", ""),
        template=texts.get("template", ""),
        base=texts.get("base", ""),
        generation=_whole(texts, "generation", figures.MAX_GENERATION) or 0,
        order=order if order in ORDERS else "",
        stop_calls=_whole(texts, "stop_calls", figures.MAX_COUNT) or 0,
        is_boosted=texts.get("boosted") == "1",
        note=texts.get("note", ""),
        tier="" if tier == CLONED else tier,
        is_cloned=texts.get("cloned") == "1" or tier == CLONED,
        is_woken=texts.get("woken") == "1",
        cpu_quota=_number(texts, "cpu_quota", 0.0, figures.MAX_CPUS),
        decided_mono_s=_mono_s(texts, "decided_mono_s"),
        probed_mono_s=_mono_s(texts, "probed_mono_s"),
        served_mono_s=_served(texts),
        failures=_whole(texts, "failures", figures.MAX_COUNT) or 0,
        is_kept=texts.get("kept") == "1",
        address=_address(texts.get("address", "")),
        stop_terms=texts.get("stop_terms", ""),
        is_owners=texts.get("owners") == "1",
        replaces=texts.get("replaces", ""),
    )


def _phase(texts: Mapping[str, str]) -> Phase:
    """Return the phase; the newer name counts only beside the older one that was written with it."""
    older = Phase(texts["phase"])
    return next((p for p in STORED_AS if texts.get("stored_phase") == p and STORED_AS[p] is older), older)


def _served(texts: Mapping[str, str]) -> float | None:
    """Return when it first served; release 0.1.0 wrote nothing about that, so its phase tells."""
    if "served_mono_s" in texts:
        return _mono_s(texts, "served_mono_s")
    return _mono_s(texts, "since_mono_s") if texts["phase"] in HAS_SERVED else None


def _address(text: str) -> str:
    return text if is_address(text) else ""


def _mono_s(texts: Mapping[str, str], name: str) -> float | None:
    """Return a time on a monotonic clock; before 0 it is another boot's."""
    return _number(texts, name, -figures.MAX_MONO_S, figures.MAX_MONO_S)


def _number(texts: Mapping[str, str], name: str, least: float, most: float) -> float | None:
    """Return the figure called ``name``, None where it is empty or missing."""
    return _figure(texts, name, least, most) if texts.get(name) else None


def _figure(texts: Mapping[str, str], name: str, least: float, most: float) -> float:
    text = texts[name]
    try:
        return figures.number(text, least, most)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _whole(texts: Mapping[str, str], name: str, most: int) -> int | None:
    text = texts.get(name, "")
    if not text:
        return None
    try:
        return figures.whole(text, 0, most)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
