"""Several groups on one host, planned in one turn by the real service: what one takes, the others do not."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.actuator.core.placement import MIB, OVERHEAD_BYTES
from tests.integration.actuator_fakes import Stand

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


def test_groups_that_grow_in_one_turn_get_slots_of_their_own(stand: Stand) -> None:
    for name in ENDPOINTS:
        stand.want(name, 0 if name == "job" else 1)  # the third makes its reserve
    stand.start()
    stand.run_until(lambda: len(stand.records()) == 3)
    assert sorted(record.slot for record in stand.records().values() if record.slot is not None) == [0, 1, 2]


def test_memory_for_one_domain_is_given_to_one_group(stand: Stand) -> None:
    stand.host.free_memory = 128 * MIB + OVERHEAD_BYTES
    stand.start()
    stand.run_until(lambda: any(not body.unreachable_hosts for body in stand.memberships()))
    for name in ("web", "api"):
        stand.want(name, 1)
    missing = "not enough free memory for 128 MiB more"
    stand.run_until(lambda: any(missing in body.blocked for body in stand.memberships()))
    stand.run_until(lambda: len(stand.records()) == 1)
