"""The real service tells sick members from overloaded ones by the balancer, and says what replacing does not cure."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.clock import boot_id
from common.domain import DomainState
from common.messages import BackendState, Drain, Event, Traffic
from common.phases import Phase
from services.actuator.core.breaker import Breaker, domain_key
from services.actuator.core.record import Record
from services.actuator.store import Stored, write
from tests.integration.actuator_fakes import CLOCK, Stand, running

GRACE_S = 1.0
SICK, WELL = "web-0000", "web-0001"


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    group = {"kind": "existing", "prefix": "web-", "min": 0, "address_source": "arp", "unhealthy_grace_s": GRACE_S}
    made = Stand(tmp_path, {"web": group})
    for name in (SICK, WELL):
        made.host.by_name[name] = running(name)
        made.host.by_name[name].metadata = ready(name).to_metadata()
    yield made
    made.close()


def ready(name: str) -> Record:
    now_s = CLOCK.monotonic_s()
    return Record(
        group="web",
        uuid=f"u-{name}",
        host="local",
        phase=Phase.READY,
        since_mono_s=now_s,
        since_s=CLOCK.epoch_s(),
        boot_id=boot_id(),
        started_mono_s=now_s,
    )


def tell(stand: Stand, queue: int) -> None:
    """Say that one of the two has failed its checks for a minute, and how many requests wait."""
    backends = tuple(
        BackendState(
            name=name, uuid=f"u-{name}", slot="vm1", state="ready", is_healthy=name == WELL,
            unhealthy_s=0.0 if name == WELL else 60.0,
        )
        for name in (SICK, WELL)
    )  # fmt: skip
    stand.want("web", 2)
    stand.bus.put(Drain(group="web", endpoint="127.0.0.1:1", is_proxy_alive=True, backends=backends))
    stand.bus.put(Traffic(group="web", interval_s=0.2, is_known=True, queue=queue, in_flight=queue))


def phase(stand: Stand) -> Phase:
    return stand.records()[SICK].phase


def test_a_member_that_fails_in_an_overload_is_given_up_only_a_grace_after_its_end(stand: Stand) -> None:
    stand.start()

    def is_said() -> bool:
        tell(stand, queue=9)
        notes = [note for body in stand.memberships() for note in body.notes]
        return any("overloaded, not sick" in note for note in notes)

    stand.run_until(is_said)
    begun_s = CLOCK.monotonic_s()

    def is_overload_long_enough() -> bool:
        tell(stand, queue=9)
        assert phase(stand) is Phase.READY
        return CLOCK.monotonic_s() - begun_s > 2 * GRACE_S

    stand.run_until(is_overload_long_enough)
    ended_s = CLOCK.monotonic_s()

    def is_given_up() -> bool:
        tell(stand, queue=0)
        return phase(stand) is not Phase.READY

    stand.run_until(is_given_up)
    assert CLOCK.monotonic_s() - ended_s >= GRACE_S
    assert stand.records()[WELL].phase is Phase.READY


def test_a_domain_that_dies_again_soon_after_it_was_ready_is_told_and_kept_in_mind(
    stand: Stand, tmp_path: Path
) -> None:
    key = domain_key("web", "local", SICK)
    before = Breaker(relapses=1, relapsed_s=CLOCK.monotonic_s() - 30)
    write(tmp_path / "actuator.json", Stored({key: before}), boot_id())
    stand.start()
    tell(stand, queue=0)
    stand.run_until(lambda: bool(stand.memberships()))
    stand.host.destroy(SICK, f"u-{SICK}")
    told = lambda: [b for b in stand.bus.published if isinstance(b, Event) and b.name == "replacing-in-vain"]  # noqa: E731
    stand.run_until(lambda: tell(stand, queue=0) or bool(told()))
    assert (told()[0].domain, told()[0].level) == (SICK, "warning")
    stand.run_until(lambda: any("replacing does not help" in body.blocked for body in stand.memberships()))
    assert '"relapses": 2' in (tmp_path / "actuator.json").read_text()


def test_one_that_is_kept_though_it_answers_nobody_gets_another_beside_it_and_none_is_taken_away(stand: Stand) -> None:
    stand.host.by_name[WELL].become(DomainState.SHUTOFF, "shutdown")
    stand.host.by_name[WELL].metadata = {}
    stand.start()
    begun_s = CLOCK.monotonic_s()

    def tell_kept() -> None:
        kept = BackendState(name=SICK, uuid=f"u-{SICK}", slot="vm1", state="ready", is_healthy=True, is_kept=True)
        stand.want("web", 1)
        stand.bus.put(Drain(group="web", endpoint="127.0.0.1:1", is_proxy_alive=True, backends=(kept,)))
        traffic = Traffic(group="web", interval_s=0.2, is_known=True, queue=0, in_flight=6, answer_rate=0.0)
        stand.bus.put(traffic)

    stand.run_until(lambda: tell_kept() or stand.host.by_name[WELL].state is DomainState.RUNNING)
    assert GRACE_S <= CLOCK.monotonic_s() - begun_s < 3 * GRACE_S, "long before HAProxy has it down"
    assert stand.host.by_name[SICK].state is DomainState.RUNNING and phase(stand) is Phase.READY
    assert any(f"{SICK}: its checks time out" in note for body in stand.memberships() for note in body.notes)


def test_a_domain_that_libvirt_does_not_know_any_more_is_told_by_its_name(stand: Stand) -> None:
    stand.start()
    stand.run_until(lambda: tell(stand, queue=0) or bool(stand.memberships()))
    stand.run_until(lambda: any(len(body.members) == 2 for body in stand.memberships()))
    del stand.host.by_name[WELL]
    told = lambda: [b for b in stand.bus.published if isinstance(b, Event) and b.name == "domain-failed"]  # noqa: E731
    stand.run_until(lambda: any(event.domain == WELL for event in told()))
    stand.run_until(lambda: len(stand.memberships()[-1].members) == 1)
    assert [(event.group, event.host) for event in told() if event.domain == WELL] == [("web", "local")]
    assert "it is gone" in next(event.text for event in told() if event.domain == WELL)
