"""Several groups on one host, planned in one turn by the real service: what one takes, the others do not."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.actuator.core.placement import MIB, OVERHEAD_BYTES
from tests.faults.proof import Proof
from tests.integration.actuator_fakes import Stand

TURNS = 50
ENDPOINTS = {"web": 8000, "api": 8001, "job": 8002}


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    warm = {"job": {"warm": {"paused": 1}}}
    made = Stand(
        tmp_path,
        {
            name: {"prefix": f"{name}-", "min": 0, "endpoint": f"127.0.0.1:{port}", **warm.get(name, {})}
            for name, port in ENDPOINTS.items()
        },
    )
    yield made
    made.close()


@pytest.mark.fault(59)
def test_groups_that_grow_in_one_turn_get_slots_of_their_own(stand: Stand, row: Proof) -> None:
    for name in ENDPOINTS:
        stand.want(name, 0 if name == "job" else 1)  # the third makes its reserve
    stand.start()
    stand.run_until(lambda: len(stand.records()) == 3)
    assert sorted(record.slot for record in stand.records().values() if record.slot is not None) == [0, 1, 2]
    row.held("groups that grow in one turn: each domain has a slot of its own, so a MAC and an address of its own")


@pytest.mark.fault(57)
def test_who_has_no_slot_of_the_network_is_told_and_is_not_made(tmp_path: Path, row: Proof) -> None:
    stand = Stand(tmp_path, {"web": {"prefix": "web-", "min": 0, "max": 2}}, slots=2)
    try:
        stand.start()
        stand.want("web", 4)
        stand.run_until(lambda: any("all 2 network slots are taken" in body.blocked for body in stand.memberships()))
        row.held("a domain for which the network has no slot: told")
        for _ in range(TURNS):
            stand.turn()
        assert sorted(stand.host.by_name) == ["web-0000", "web-0001"]
        row.held(f"in {TURNS} turns of the service nothing more is made")
    finally:
        stand.close()


def test_memory_for_one_domain_is_given_to_one_group(stand: Stand) -> None:
    stand.host.free_memory = 128 * MIB + OVERHEAD_BYTES
    stand.start()
    stand.run_until(lambda: any(not body.unreachable_hosts for body in stand.memberships()))
    for name in ("web", "api"):
        stand.want(name, 1)
    missing = "not enough free memory for 128 MiB more"
    stand.run_until(lambda: any(missing in body.blocked for body in stand.memberships()))
    stand.run_until(lambda: len(stand.records()) == 1)
