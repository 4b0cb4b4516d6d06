"""Every state that libvirt has means something, and what means nothing to us is treated with care."""

from typing import Final

import libvirt
import pytest

from common.domain import DomainState
from common.domain_states import MAY_COME_BACK, MEANINGS, PAUSING_EVENTS, Meaning, meaning, row
from common.virt.constants import LibvirtNames

CONSTANTS: Final = vars(libvirt)
NAMES: Final = LibvirtNames(CONSTANTS)
FLAGS: Final = {
    "acpi-power-btn",
    "guest-agent",
    "initctl",
    "signal",
    "paravirt",
    "default",
}  # of virDomainShutdownFlags
STATES: Final = {
    "NOSTATE": DomainState.UNKNOWN,
    "RUNNING": DomainState.RUNNING,
    "BLOCKED": DomainState.RUNNING,
    "PAUSED": DomainState.PAUSED,
    "SHUTDOWN": DomainState.STOPPING,
    "SHUTOFF": DomainState.SHUTOFF,
    "CRASHED": DomainState.CRASHED,
    "PMSUSPENDED": DomainState.PAUSED,
}


def pairs() -> list[tuple[DomainState, str]]:
    """Return every pair of state and reason of the installed libvirt, as our names."""
    found = []
    for word, state in STATES.items():
        prefix = f"VIR_DOMAIN_{word}_"
        numbers = {n for name, n in CONSTANTS.items() if name.startswith(prefix) and name not in _event_names()}
        assert NAMES.state(CONSTANTS[f"VIR_DOMAIN_{word}"]) is state
        found += [(state, NAMES.reason(CONSTANTS[f"VIR_DOMAIN_{word}"], n)) for n in sorted(numbers)]
    return [pair for pair in found if pair[1] not in FLAGS]


def _event_names() -> set[str]:
    return {name for name in CONSTANTS if name.startswith("VIR_DOMAIN_EVENT_")}


@pytest.mark.parametrize("pair", pairs())
def test_every_pair_that_libvirt_has_is_a_row(pair: tuple[DomainState, str]) -> None:
    assert pair in MEANINGS


def test_each_state_has_a_row_for_a_reason_that_nobody_knows() -> None:
    for state in DomainState:
        assert row(state, "of a newer libvirt") is MEANINGS[state, "unknown"]


def test_only_a_dead_guest_is_a_fault_of_the_guest() -> None:
    at_fault = {pair for pair, found in MEANINGS.items() if found.meaning is Meaning.GUEST_FAULT}
    assert at_fault == {
        (DomainState.PAUSED, "watchdog"),
        (DomainState.PAUSED, "crashed"),
        (DomainState.CRASHED, "unknown"),
        (DomainState.CRASHED, "panicked"),
    }


def test_what_may_come_back_says_when_somebody_is_to_be_told() -> None:
    assert all(found.limit_s is not None for found in MEANINGS.values() if found.meaning in MAY_COME_BACK)


def test_every_detail_of_an_event_that_tells_of_a_pause_leads_to_a_row() -> None:
    details = {
        NAMES.event(CONSTANTS[f"VIR_DOMAIN_EVENT_{event}"], number)[1]
        for event in ("SUSPENDED", "PMSUSPENDED")
        for name, number in CONSTANTS.items()
        if name.startswith(f"VIR_DOMAIN_EVENT_{event}_")
    }
    assert details == set(PAUSING_EVENTS)
    assert all((DomainState.PAUSED, reason) in MEANINGS for reason in PAUSING_EVENTS.values())


def test_a_pause_for_no_known_reason_is_its_owners() -> None:
    assert meaning(DomainState.PAUSED, "of a newer libvirt") is Meaning.OWNER
