"""Several groups on one host: what the others are about to take of it counts in the placement of a new domain."""

from dataclasses import replace

from common.domain import DomainState
from common.phases import Phase
from services.actuator.core.membership import membership
from services.actuator.core.placement import MIB, OVERHEAD_BYTES
from services.actuator.core.plan import plan
from services.actuator.core.seen import SeenDomain, SeenHost
from services.actuator.core.steps import Define, TakeSnapshot
from tests.unit.test_actuator_plan import NOW_S, brief, domain, record, seen, wanted

OTHERS = replace(record("api-0000", Phase.CREATING, slot=0), group="api")
BEGUN = Define(
    group="api", host="local", domain="api-0000", uuid=OTHERS.uuid, reason="", record=OTHERS, accel="qemu",
    memory_mib=1024,
)  # fmt: skip
NEEDED = 128 * MIB + OVERHEAD_BYTES


def test_a_slot_that_another_group_is_about_to_use_is_taken() -> None:
    (step,) = plan(wanted(1), seen(in_flight=(BEGUN,)), NOW_S).steps
    assert isinstance(step, Define) and (step.domain, step.record.slot) == ("web-0000", 1)


def test_memory_that_another_group_is_about_to_use_counts_by_its_own_size() -> None:
    too_little = SeenHost("local", free_memory_bytes=2 * NEEDED)
    enough = SeenHost("local", free_memory_bytes=NEEDED + 1024 * MIB + OVERHEAD_BYTES)
    found = plan(wanted(1), seen(hosts=(too_little,), in_flight=(BEGUN,)), NOW_S)
    assert (found.steps, found.blocked) == ((), ("local: not enough free memory for 128 MiB more",))
    assert not membership(wanted(1), seen(hosts=(too_little,)), found, (), NOW_S).is_waiting
    assert len(plan(wanted(1), seen(hosts=(enough,), in_flight=(BEGUN,)), NOW_S).steps) == 1


def test_starts_of_all_groups_count_towards_what_a_host_starts_at_once() -> None:
    booting = replace(OTHERS, uuid="u-api-0001", phase=Phase.BOOTING, slot=1)
    shown = SeenDomain("local", "api-0001", "u-api-0001", DomainState.RUNNING, booting)
    host = SeenHost("local", (shown,), cpus=1)
    found = plan(wanted(1), seen(hosts=(host,), in_flight=(BEGUN,)), NOW_S)
    assert (found.steps, found.blocked) == ((), ("local: 2 domains are starting there already",))
    assert membership(wanted(1), seen(hosts=(host,)), found, (), NOW_S).is_waiting
    assert len(plan(wanted(1), seen(hosts=(host,)), NOW_S).steps) == 1


def test_a_template_that_is_being_saved_takes_the_place_of_no_domain_that_serves() -> None:
    template = replace(record("web-0009", Phase.STANDBY), tier="template")
    taking = TakeSnapshot(
        group="web", host="local", domain="web-template", uuid=template.uuid, reason="", tier="clone", record=template,
        accel="qemu", snapshot="k",
    )  # fmt: skip
    want = wanted(2, max=2, surge=0, warm={"start": "clone"})
    found = plan(want, seen(domain("web-0000"), in_flight=(taking,)), NOW_S)
    assert (brief(found.steps), found.blocked) == (["Define web-0001"], ())
    assert (found.view.owned_total, want.ceiling) == (2, 3)
