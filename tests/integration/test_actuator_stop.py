"""A clean stop of the actuator alone: what bursts have lent is given back, in bounded time."""

import threading
from pathlib import Path

import pytest

from common.domain import DomainState
from common.phases import Phase
from services.actuator.core.record import Record
from tests.integration.actuator_fakes import Stand
from tests.sim.actuator_model import FakeDomain

LENT = 0.9


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    group = {"prefix": "web-", "min": 0, "image": {"cpu_quota": 0.4}, "burst": {"enabled": True, "max_quota": LENT}}
    made = Stand(tmp_path, {"web": group})
    for index, phase in enumerate((Phase.READY, Phase.DRAINING, Phase.READY)):
        made.host.by_name[f"web-000{index}"] = lent(f"web-000{index}", phase)
    made.start()
    made.run_until(lambda: any(len(body.members) == 3 for body in made.memberships()))
    return made


def lent(name: str, phase: Phase) -> FakeDomain:
    uuid = f"u-{name}"
    record = Record(
        group="web", uuid=uuid, host="local", phase=phase, since_mono_s=0.0, since_s=0.0, boot_id="b", template="d1",
        cpu_quota=LENT,
    )  # fmt: skip
    return FakeDomain(name, uuid, DomainState.RUNNING, metadata=record.to_metadata(), started_s=0.0, cpu_quota=LENT)


def quotas(stand: Stand) -> list[tuple[float | None, float | None]]:
    """Return of each domain the quota in force, and the burst in its record."""
    records = stand.records()
    return [(domain.cpu_quota, records[name].cpu_quota) for name, domain in sorted(stand.host.by_name.items())]


def test_a_stop_gives_back_every_burst(stand: Stand) -> None:
    assert quotas(stand) == [(LENT, LENT)] * 3
    stand.close()
    assert quotas(stand) == [(0.4, None)] * 3


def test_a_call_that_hangs_holds_up_neither_the_stop_nor_the_others(stand: Stand) -> None:
    over = threading.Event()
    stand.host.fail = lambda call, name: over.wait() and None if (call, name) == ("set_quota", "web-0000") else None
    stand.close()
    assert quotas(stand) == [(LENT, LENT), (0.4, None), (0.4, None)]
    over.set()
