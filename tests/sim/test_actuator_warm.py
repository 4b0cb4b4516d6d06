"""Domains that stand by, in the model world: how they come to rest, are woken, renewed, recycled, and how they fail."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from common.domain import DomainState
from common.errors import DomainGoneError, HypervisorBusyError, HypervisorError
from common.phases import Phase
from services.actuator.core.orders import Order, fulfil
from services.actuator.core.plan import context_of, plan
from services.actuator.core.sizing import with_demand
from services.actuator.core.steps import SetPhase
from tests.sim.actuator_model import TEMPLATE, FakeDomain, World, group

REST = {"paused": (DomainState.PAUSED, False), "saved": (DomainState.SHUTOFF, True)}


def warm(**keys: object) -> dict[str, object]:
    return {"warm": keys}


def settled(desired: int, **changes: object) -> World:
    world = World(group(**changes))
    world.want(desired)
    world.run_until(world.is_settled)
    return world


def standing_by(world: World, tier: str) -> list[FakeDomain]:
    found = [d for d in world.everything() if d.metadata.get("phase") == "standby" and d.metadata["tier"] == tier]
    return [d for d in found if (d.state, d.has_saved) == REST[tier]]


def calls(world: World, *names: str) -> list[str]:
    return [call for _, call, _ in world.log if call in names]


def one(world: World, phase: str) -> FakeDomain:
    return next(d for d in world.everything() if d.metadata.get("phase") == phase)


def test_group_that_has_all_it_needs_makes_its_reserve_one_at_a_time() -> None:
    world = settled(1, **warm(paused=2, saved=1))
    assert (len(standing_by(world, "paused")), len(standing_by(world, "saved"))) == (2, 1)
    assert sorted(world.phases().values()) == ["ready", "standby", "standby", "standby"]
    assert calls(world, "define", "suspend", "save") == ["define"] * 2 + ["suspend", "define"] * 2 + ["save"]
    changes = world.changes
    world.run(60)
    assert world.changes == changes, "a satisfied group plans nothing"


def test_reserve_that_boots_is_on_standby_for_others_and_no_capacity() -> None:
    world = settled(1)
    world.group = group(**warm(paused=1))
    world.run_until(lambda: "web-0001" in world.phases())
    member = next(m for m in world.message.members if m.name == "web-0001") if world.message else None
    assert member is not None and (member.phase, member.tier, member.note) == (
        Phase.STANDBY,
        "paused",
        "it boots, to stand by",
    )
    assert not any(d.metadata["boosted"] == "1" for d in world.everything() if d.metadata["tier"]), (
        "nobody waits for it"
    )


@pytest.mark.parametrize("tier", ["paused", "saved"])
def test_who_stands_by_is_woken_asked_and_served_instead_of_a_new_domain(tier: str) -> None:
    world = settled(1, **warm(**{tier: 1}))
    world.run(40)
    world.boot_s = 30.0
    (domain,) = standing_by(world, tier)
    world.want(2, generation=2)
    took_s = world.run_until(lambda: world.ready() == 2)
    assert domain.metadata["phase"] == "ready" and took_s < 5
    phases = [str(s.record.phase) for s in world.steps if s.domain == domain.name and hasattr(s, "record")]
    assert phases[-3:] == ["booting", "warming", "ready"]
    world.boot_s = 3.0
    world.run_until(world.is_settled)
    assert len(standing_by(world, tier)) == 1, "another one takes its place"


def test_the_fastest_tier_goes_first() -> None:
    world = settled(1, **warm(paused=1, saved=1))
    (paused,) = standing_by(world, "paused")
    world.want(2, generation=2)
    world.run_until(lambda: world.ready() == 2)
    assert paused.metadata["phase"] == "ready" and len(standing_by(world, "saved")) == 1


def test_step_out_takes_all_tiers_and_boots_what_is_missing() -> None:
    world = settled(1, **warm(paused=1, saved=1))
    world.want(4, generation=2)
    world.tick()
    assert sum(1 for s in world.steps if type(s).__name__ == "Wake") == 2
    world.run_until(world.is_settled)
    assert world.most_owned <= world.group.ceiling


def test_reserve_that_still_boots_serves_when_it_is_wanted() -> None:
    world = settled(1)
    world.group = group(**warm(paused=1))
    world.run_until(lambda: "booting" in {d.metadata["phase"] for d in world.everything()})
    name = one(world, "booting").name
    world.want(2, generation=2)
    world.tick()
    assert one(world, "booting").metadata["boosted"] == "1", "somebody waits for it now"
    world.run_until(lambda: world.ready() == 2)
    assert world.phases()[name] == "ready"
    assert [world.hosts["local"].by_name[name].metadata[key] for key in ("boosted", "tier")] == ["0", ""]
    assert any(isinstance(s, SetPhase) and s.domain == name and s.lead_s is not None for s in world.steps)
    defined = [n for _, call, n in world.log if call == "define"]
    assert defined == ["web-0000", "web-0001"]


def test_scale_in_keeps_a_drained_domain_for_later_where_one_is_missing() -> None:
    world = World(group(**warm(paused=1)))
    world.want(2)
    world.run_until(lambda: world.ready() == 2)
    world.want(1, generation=2)
    world.run_until(world.is_settled)
    assert len(standing_by(world, "paused")) == 1
    assert calls(world, "define", "shutdown", "destroy", "undefine", "suspend") == ["define", "define", "suspend"]


def test_drain_that_runs_out_of_time_ends_in_a_shutdown_all_the_same() -> None:
    world = World(group(drain_timeout_s=10.0, **warm(paused=1)))
    world.want(2)
    world.run_until(lambda: world.ready() == 2)
    for domain in world.everything():
        domain.in_flight = 3
    world.want(1, generation=2)
    world.run_until(lambda: "shutdown" in calls(world, "shutdown"))
    world.run_until(world.is_settled)


def test_cancelled_drain_forgets_that_it_was_to_stand_by() -> None:
    world = World(group(**warm(paused=1)))
    world.want(2)
    world.run_until(lambda: world.ready() == 2)
    for domain in world.everything():
        domain.in_flight = 3
    world.want(1, generation=2)
    world.run_until(lambda: "draining" in world.phases().values())
    world.want(2, generation=3)
    world.run_until(lambda: world.ready() == 2)
    assert {d.metadata["note"] for d in world.everything() if d.metadata["phase"] == "ready"} == {""}


@pytest.mark.parametrize("tier", ["paused", "saved"])
def test_reserve_of_an_old_image_is_made_anew_one_at_a_time(tier: str) -> None:
    world = settled(1, **warm(**{tier: 2}))
    world.template = replace(TEMPLATE, digest="d2")
    least = [2]

    def is_renewed() -> bool:
        least.append(sum(1 for d in world.everything() if d.metadata.get("phase") == "standby"))
        found = standing_by(world, tier)
        return len(found) == 2 and {d.metadata["template"] for d in found} == {"d2"}

    world.run_until(is_renewed)
    assert min(least) >= 1
    world.run_until(world.is_settled)


def test_reserve_that_has_waited_for_too_long_is_made_anew() -> None:
    world = settled(1, **warm(paused=1, max_age_s=120.0))
    (old,) = standing_by(world, "paused")
    world.run_until(lambda: old.uuid not in {d.uuid for d in world.everything()})
    world.run_until(world.is_settled)


def test_smaller_reserve_lets_the_surplus_go() -> None:
    world = settled(1, **warm(paused=2, saved=1))
    world.group = group(**warm(paused=1))
    world.run_until(world.is_settled)
    assert len(standing_by(world, "paused")) == 1 and len(world.everything()) == 2


def test_reserve_waits_while_capacity_is_missing_or_the_group_is_halted() -> None:
    world = World(group(**warm(paused=1)))
    world.want(2)
    world.run_until(lambda: world.ready() == 2)
    world.want(2, generation=2, is_replacement_allowed=False)
    world.run(60)
    assert len(world.everything()) == 2
    world.want(2, generation=3, burst_quota=0.9)
    world.run(60)
    assert len(world.everything()) == 2, "an overloaded group needs the CPU itself"
    world.want(2, generation=4)
    world.run_until(world.is_settled)


def test_reserve_is_no_victim_and_capacity_may_fill_its_room_only_with_its_own() -> None:
    world = settled(4, **warm(paused=1))
    assert world.most_owned <= world.group.ceiling == 6
    world.want(1, generation=2)
    world.run_until(world.is_settled)
    assert len(standing_by(world, "paused")) == 1


def test_running_reserve_is_in_rotation_beyond_what_is_desired_and_within_max() -> None:
    world = World(group(**warm(running=1)))
    world.want(2)
    world.run_until(lambda: world.ready() == 3)
    assert world.message is not None
    assert [m.tier for m in world.message.members].count("running") == 1
    world.want(4, generation=2)
    world.run_until(lambda: world.ready() == 4)
    world.run(30)
    assert len(world.everything()) == 4
    assert [m.tier for m in world.message.members] == [""] * 4


def test_operator_may_keep_a_standby_where_it_is() -> None:
    world = settled(1, **warm(paused=1))
    (domain,) = standing_by(world, "paused")
    domain.metadata["protected"] = "1"
    world.want(2, generation=2)
    world.run_until(lambda: world.ready() == 2)
    assert domain.state is DomainState.PAUSED and len(world.everything()) == 3


@pytest.mark.parametrize("tier", ["paused", "saved"])
@pytest.mark.parametrize("verb", ["drain", "replace"])
def test_standby_that_an_operator_wants_away_leaves_and_the_reserve_refills_itself(tier: str, verb: str) -> None:
    world = settled(1, **warm(**{tier: 1}))
    (old,) = standing_by(world, tier)
    seen = plan(world.wanted(), world.seen(), world.now_s).view
    member = next(m for m in seen.members if m.name == old.name)
    step = fulfil(Order(verb, old.name), context_of(world.wanted(), world.seen(), world.now_s), member)
    assert isinstance(step, SetPhase)
    world._perform(step)
    world.run_until(lambda: old not in world.everything())
    world.run_until(world.is_settled)
    (new,) = standing_by(world, tier)
    assert new.uuid != old.uuid and world.ready() == 1


# --- faults --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", ["paused", "saved"])
def test_woken_domain_that_does_not_answer_is_given_up_soon_and_another_serves(tier: str) -> None:
    world = settled(1, **warm(**{tier: 1}))
    (domain,) = standing_by(world, tier)
    domain.is_silent = True
    world.want(2, generation=2)
    took_s = world.run_until(lambda: world.ready() == 2)
    assert took_s < (15 if tier == "paused" else 30), "much sooner than a boot may take"
    assert f"woken from {tier}, it does not answer" in " ".join(world.remarks.of("web", world.now_s))
    world.run_until(world.is_settled)


def test_saved_memory_that_cannot_be_restored_is_thrown_away_and_told() -> None:
    world = settled(1, **warm(saved=1))
    (domain,) = standing_by(world, "saved")
    domain.is_saved_badly = True
    world.want(2, generation=2)
    world.run_until(lambda: world.ready() == 2)
    assert domain.uuid not in {d.uuid for d in world.everything()}
    assert "unable to restore" in " ".join(world.remarks.of("web", world.now_s))
    world.run_until(world.is_settled)


def test_disk_that_is_full_costs_the_reserve_only_and_is_not_tried_all_the_time() -> None:
    world = World(group(**warm(saved=1)))
    world.hosts["local"].fail = lambda call, _name: HypervisorError("no space left") if call == "save" else None
    world.want(2)
    world.run_until(lambda: world.ready() == 2)
    world.run(120)
    assert len(calls(world, "save")) <= 4
    assert world.ready() == 2 and len(world.everything()) == 2
    assert world.last_plan is not None and "fewer saved domains" in world.last_plan.notes[0]
    assert world.message is not None and world.message.breaker == "closed", "real capacity is started as ever"
    world.hosts["local"].fail = lambda _call, _name: None
    world.run_until(world.is_settled)


def test_standby_waits_for_memory_that_is_not_there() -> None:
    world = World(group(**warm(saved=1, paused=1)))
    world.want(1)
    world.run_until(lambda: world.ready() == 1)
    world.hosts["local"].free_memory = 300 * 1024**2
    world.run(60)
    assert len(world.everything()) == 1
    assert world.last_plan is not None and "memory" in world.last_plan.notes[0]
    world.hosts["local"].free_memory = 16 * 1024**3
    world.run_until(world.is_settled)


def test_saved_memory_stays_where_it_is_while_the_host_is_short_of_memory() -> None:
    world = settled(1, **warm(saved=1))
    world.hosts["local"].free_memory = 64 * 1024**2
    world.want(2, generation=2)
    world.run(10)
    assert len(standing_by(world, "saved")) == 1
    assert world.message is not None and "not enough free memory" in world.message.blocked
    assert world.message.notes == ("stay saved, for their host has no memory for them: web-0001 (local)",)
    world.hosts["local"].free_memory = 16 * 1024**3
    world.run_until(world.is_settled)


@pytest.mark.parametrize("reason", ["watchdog", "crashed"])
def test_standby_that_something_else_paused_is_never_woken(reason: str) -> None:
    world = settled(1, **warm(paused=1))
    (domain,) = standing_by(world, "paused")
    domain.reason = reason
    world.run_until(lambda: domain.uuid not in {d.uuid for d in world.everything()})
    world.run_until(world.is_settled)


@pytest.mark.parametrize("tier", ["paused", "saved"])
@pytest.mark.parametrize("state", [DomainState.SHUTOFF, DomainState.CRASHED, DomainState.RUNNING])
def test_standby_that_somebody_changed_is_put_right(tier: str, state: DomainState) -> None:
    world = settled(1, **warm(**{tier: 1}))
    (domain,) = standing_by(world, tier)
    domain.state, domain.has_saved = state, False
    world.tick()
    world.run_until(world.is_settled)
    assert len(standing_by(world, tier)) == 1


def test_host_that_cannot_be_reached_has_no_standby_to_wake() -> None:
    world = World(group(hosts=("a", "b"), **warm(paused=1)), hosts=("a", "b"))
    world.want(1)
    world.run_until(world.is_settled)
    (domain,) = standing_by(world, "paused")
    host = next(h for h in world.hosts.values() if domain.name in h.by_name)
    host.is_lost = True
    world.run(5)
    world.want(2, generation=2)
    world.run_until(lambda: world.ready() == 2)
    assert domain.state is DomainState.PAUSED


def scenario(world: World) -> None:
    """Make a reserve, wake all of it, refill it, take one back into it: every kind of step is in it."""
    world.want(1)
    world.run(30)
    world.want(3, generation=2)
    world.run(30)
    world.want(2, generation=3)
    world.run(20)
    world.group = group(**warm(paused=1))
    world.run(10)


MIXED = warm(paused=1, saved=1)


def fault_free() -> World:
    world = World(group(**MIXED))
    scenario(world)
    return world


CLEAN = fault_free()


def check_end(world: World) -> None:
    assert world.is_settled(), world.summary()
    assert sorted(d.metadata["phase"] for d in world.everything()) == ["ready", "ready", "standby"]
    assert len(standing_by(world, "paused")) == 1
    assert world.most_owned <= group(**MIXED).ceiling


def test_the_scenario_has_every_kind_of_step() -> None:
    check_end(CLEAN)
    assert set(calls(CLEAN, "suspend", "resume", "save")) == {"suspend", "resume", "save"}
    assert "undefine" in calls(CLEAN, "undefine")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("index", range(1, CLEAN.changes + 1))
def test_killed_at_any_side_effect_the_end_is_the_same(when: str, index: int) -> None:
    world = World(group(**MIXED))
    setattr(world, f"kill_{when}", index)
    scenario(world)
    world.run_until(world.is_settled)
    assert world.kills == 1
    check_end(world)


FAILURES: dict[str, Callable[[], HypervisorError]] = {
    "refused": lambda: HypervisorError("refused"),
    "late": lambda: HypervisorBusyError("late"),
    "gone": lambda: DomainGoneError("gone"),
}


@pytest.mark.parametrize("index", range(1, CLEAN.changes + 1))
@pytest.mark.parametrize("error", FAILURES)
@pytest.mark.long
def test_any_call_that_fails_once_leads_to_the_same_end(index: int, error: str) -> None:
    world = World(group(**MIXED))
    world.hosts["local"].fail = lambda _call, _name: FAILURES[error]() if world.changes == index else None
    scenario(world)
    world.run(90)
    check_end(world)


def test_size_of_the_reserve_follows_the_demand_that_was_seen() -> None:
    world = World(group(min=1, max=6, **warm(sizing="auto", memory_mib=600)))
    world.want(1)
    world.run_until(world.is_settled)
    assert len(standing_by(world, "paused")) == 1, "one before anything is known"
    world.demand = with_demand(with_demand((), world.now_s, 1), world.now_s + 1, 4)
    world.now_s += 2
    world.run_until(world.is_settled)
    assert (len(standing_by(world, "paused")), len(standing_by(world, "saved"))) == (2, 1)
    assert world.last_plan is not None
    assert world.last_plan.notes[0].startswith("warm auto: 2 paused, 1 saved: the largest rise in 6 h was 3")
