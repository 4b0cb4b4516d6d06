"""The actuator in a model world: whole lives of groups in virtual time."""

import pytest

from common.domain import DomainState
from common.errors import DomainGoneError, HypervisorBusyError, HypervisorError
from services.actuator.core.seen import Load
from tests.sim.actuator_model import FakeDomain, World, group, phase_steps

OUT_IN = 40.0


def settled(desired: int, **changes: object) -> World:
    world = World(group(**changes))
    world.want(desired)
    world.run_until(world.is_settled)
    return world


def test_group_grows_to_what_is_desired() -> None:
    world = settled(3)
    assert sorted(world.phases()) == ["web-0000", "web-0001", "web-0002"]
    assert phase_steps(world)[:4] == [
        ("web-0000", "booting"),
        ("web-0001", "booting"),
        ("web-0002", "booting"),
        ("web-0000", "warming"),
    ]


def test_satisfied_group_plans_nothing() -> None:
    world = settled(2)
    changes = world.changes
    world.run(60)
    assert world.changes == changes


def test_group_shrinks_by_drain_shutdown_and_undefine() -> None:
    world = settled(3)
    world.want(1, generation=2)
    world.run_until(world.is_settled)
    assert list(world.summary()) == ["web-0000"]
    last = [call for _, call, name in world.log if name == "web-0002"][-4:]
    assert last == ["set_metadata", "shutdown", "set_metadata", "undefine"]
    assert not any(call == "destroy" for _, call, _ in world.log)


def test_crashed_domain_is_replaced_within_a_boot() -> None:
    world = settled(2)
    victim = world.hosts["local"].by_name["web-0001"]
    victim.state = DomainState.CRASHED
    took_s = world.run_until(lambda: world.ready() == 2 and "web-0001" not in world.phases())
    assert took_s <= world.boot_s + 4
    world.run_until(world.is_settled)


def test_nothing_is_added_without_a_desired_capacity() -> None:
    world = World(group())
    world.run(30)
    assert world.changes == 0
    assert world.last_plan is not None and world.last_plan.blocked == ("no desired capacity has been heard yet",)


def test_breaker_opens_after_three_failed_starts_and_nothing_half_made_is_left() -> None:
    world = World(group())
    world.hosts["local"].fail = lambda call, _name: HypervisorError("no") if call == "start" else None
    world.want(1)
    world.run(50)
    assert sum(1 for _, call, _ in world.log if call == "start") == 3
    assert world.summary() == {}
    assert world.message is not None and world.message.breaker == "open"
    assert "3 starts in a row failed" in world.message.blocked
    world.hosts["local"].fail = lambda _call, _name: None
    world.run_until(world.is_settled)
    assert world.message.breaker == "closed"


def test_trial_after_the_breaker_is_one_domain() -> None:
    world = World(group())
    world.hosts["local"].never_boots = True
    world.group = group(boot_timeout_s=5.0)
    world.want(4)
    world.run(60 + 20)
    starts = [at_s for at_s, call, _ in world.log if call == "start"]
    late = [at_s for at_s in starts if at_s > starts[0] + 30]
    assert len(late) == 1
    assert world.most_owned <= world.group.ceiling


def test_domain_that_never_answers_is_replaced_and_the_ceiling_holds() -> None:
    world = settled(4, boot_timeout_s=10.0)
    world.hosts["local"].never_boots = True
    for domain in world.everything():
        domain.state = DomainState.CRASHED
    world.run(200)
    assert world.most_owned <= 5


def test_drain_is_cancelled_when_load_comes_back() -> None:
    world = settled(3)
    for domain in world.everything():
        domain.in_flight = 5
    world.want(2, generation=2)
    world.run_until(lambda: "draining" in world.phases().values())
    starts = sum(1 for _, call, _ in world.log if call == "start")
    world.want(3, generation=3)
    world.run_until(world.is_settled)
    assert sum(1 for _, call, _ in world.log if call == "start") == starts


def test_drain_deadline_ends_a_drain_that_never_empties() -> None:
    world = settled(2, drain_timeout_s=20.0)
    for domain in world.everything():
        domain.in_flight = 5
    world.want(1, generation=2)
    took_s = world.run_until(world.is_settled)
    assert 20 <= took_s <= 25


def test_silent_balancer_stops_a_drain_before_the_shutdown() -> None:
    world = settled(2)
    world.want(1, generation=2)
    world.run_until(lambda: "draining" in world.phases().values())
    world.is_balancer_alive = False
    world.run(120)
    assert sum(1 for d in world.everything() if d.state is DomainState.RUNNING) == 2
    world.is_balancer_alive = True
    world.run_until(world.is_settled)


def test_deaf_guest_is_destroyed_after_its_grace() -> None:
    world = settled(2)
    for domain in world.everything():
        domain.is_deaf = True
    world.want(1, generation=2)
    world.run_until(world.is_settled)
    calls = [call for _, call, name in world.log if name == "web-0001"]
    assert calls.count("shutdown") == 2 and calls.count("destroy") == 1


def test_stopping_takes_the_newest_and_spares_the_protected() -> None:
    world = settled(3)
    world.hosts["local"].by_name["web-0002"].metadata["protected"] = "1"
    world.want(1, generation=2)
    world.run_until(world.is_settled)
    assert list(world.summary()) == ["web-0002"]


def test_group_of_protected_domains_is_not_shrunk_and_says_so() -> None:
    world = settled(2)
    for domain in world.everything():
        domain.metadata["protected"] = "1"
    world.want(1, generation=2)
    world.run(60)
    assert len(world.summary()) == 2
    assert world.message is not None and "protected" in world.message.blocked


@pytest.mark.parametrize("state", [DomainState.CRASHED, DomainState.SHUTOFF])
def test_domain_that_stopped_by_itself_is_replaced_and_never_resumed(state: DomainState) -> None:
    world = settled(2)
    world.hosts["local"].by_name["web-0000"].state = state
    world.run_until(lambda: "web-0000" not in world.phases())
    world.run_until(world.is_settled)


def test_failed_domain_is_kept_paused_where_the_group_asks_for_it() -> None:
    world = settled(2, keep_failed=True)
    sick = world.hosts["local"].by_name["web-0000"]
    sick.is_unhealthy_since_s = world.now_s
    world.run_until(lambda: world.ready() == 2 and sick.state is DomainState.PAUSED)
    world.run(60)
    assert sick.metadata["phase"] == "failed" and sick.state is DomainState.PAUSED
    assert len(world.summary()) == 3


def test_unhealthy_domain_is_replaced_after_the_grace() -> None:
    world = settled(3)
    world.hosts["local"].by_name["web-0001"].is_unhealthy_since_s = world.now_s
    took_s = world.run_until(lambda: "web-0001" not in world.phases())
    assert took_s >= world.group.unhealthy_grace_s
    world.run_until(world.is_settled)


def test_nothing_is_taken_away_while_most_of_the_group_fails_and_requests_wait() -> None:
    world = settled(4)
    world.load = Load(queue=9, in_flight=4, request_rate=20.0, answer_rate=20.0)
    for name in ("web-0000", "web-0001"):
        world.hosts["local"].by_name[name].is_unhealthy_since_s = world.now_s
    world.run(30)
    world.want(2, generation=2)
    world.run(30)
    assert len(world.phases()) == 4
    assert "too many domains are unhealthy" in (world.message.blocked if world.message else "")
    assert not any(call == "destroy" for _, call, _ in world.log)


def test_dead_domain_is_replaced_also_while_replacement_is_halted() -> None:
    world = settled(4)
    world.want(4, generation=2, is_replacement_allowed=False)
    world.hosts["local"].by_name["web-0000"].is_unhealthy_since_s = world.now_s
    world.hosts["local"].by_name["web-0001"].state = DomainState.SHUTOFF
    world.run(60)
    assert "web-0001" not in world.phases() and "web-0000" in world.phases()
    assert world.ready() == 4


def test_foreign_domain_under_our_prefix_is_never_touched() -> None:
    world = World(group())
    stranger = FakeDomain("web-0000", "u-foreign", DomainState.RUNNING)
    world.hosts["local"].by_name["web-0000"] = stranger
    world.want(2)
    world.run_until(lambda: world.ready() == 2)
    world.want(1, generation=2)
    world.run_until(lambda: world.ready() == 1 and len(world.phases()) == 1)
    assert world.hosts["local"].by_name["web-0000"] is stranger and stranger.metadata == {}
    assert not any(name == "web-0000" for _, _, name in world.log)
    assert world.message is not None and world.message.blocked == "" and "web-0000" in " ".join(world.message.notes)


def test_clone_that_carries_a_copy_of_our_record_is_foreign() -> None:
    world = settled(1)
    ours = world.hosts["local"].by_name["web-0000"]
    clone = FakeDomain("web-0007", "u-clone", DomainState.RUNNING, metadata=dict(ours.metadata))
    world.hosts["local"].by_name["web-0007"] = clone
    world.run(30)
    assert clone.state is DomainState.RUNNING and not any(name == "web-0007" for _, _, name in world.log)
    assert world.phases() == {"web-0000": "ready"} and world.hosts["local"].by_name["web-0000"] is ours


def test_create_that_timed_out_and_succeeded_is_adopted() -> None:
    world = World(group())
    host = world.hosts["local"]
    real = host.define

    def late(xml: str) -> str:
        real(xml)
        raise HypervisorBusyError("timed out")

    host.define = late  # type: ignore[method-assign] # the fault
    world.want(1)
    world.tick()
    host.define = real  # type: ignore[method-assign] # the fault ends
    world.run_until(world.is_settled)
    assert sum(1 for _, call, _ in world.log if call == "define") == 1


def test_domain_that_vanishes_between_plan_and_call_counts_as_done() -> None:
    world = settled(2)
    host = world.hosts["local"]

    def gone(call: str, name: str) -> HypervisorError | None:
        if call == "shutdown":
            host.by_name.pop(name, None)
            return DomainGoneError("gone")
        return None

    host.fail = gone
    world.want(1, generation=2)
    world.run_until(world.is_settled)


def test_destroy_by_hand_and_undefine_by_hand_converge() -> None:
    world = settled(3)
    del world.hosts["local"].by_name["web-0000"]
    world.hosts["local"].by_name["web-0001"].state = DomainState.SHUTOFF
    world.tick()
    world.run_until(world.is_settled)
    assert len(world.summary()) == 3


def test_lost_host_keeps_its_domains_and_is_replaced_only_up_to_surge() -> None:
    world = World(group(hosts=("a", "b"), max=4, surge=1), hosts=("a", "b"))
    world.want(4)
    world.run_until(world.is_settled)
    assert sorted(len(h.by_name) for h in world.hosts.values()) == [2, 2]
    world.hosts["b"].is_lost = True
    world.run(25)
    assert len(world.hosts["a"].by_name) == 2
    world.run(60)
    assert len(world.hosts["a"].by_name) == 3
    assert world.message is not None and world.message.unreachable_hosts == ("b",)
    world.hosts["b"].is_lost = False
    world.run_until(world.is_settled)
    assert len(world.everything()) == 4
    assert not any(call == "destroy" for _, call, _ in world.log)


def test_actuator_that_restarts_while_a_host_is_lost_still_counts_its_domains() -> None:
    world = World(group(hosts=("a", "b"), max=8, surge=1), hosts=("a", "b"))
    world.want(4)
    world.run_until(world.is_settled)
    world.hosts["b"].is_lost = True
    world.memory = world.fresh()
    world.run(200)
    assert len(world.hosts["a"].by_name) == 3 and world.most_owned == 5
    world.hosts["b"].is_lost = False
    world.run_until(world.is_settled)


def test_host_that_was_never_seen_holds_back_new_domains_for_a_while_only() -> None:
    world = World(group(hosts=("a", "b")), hosts=("a", "b"))
    world.hosts["b"].is_lost = True
    world.want(2)
    world.run(20)
    assert world.everything() == []
    world.run_until(world.is_settled)


def test_far_lower_maximum_shrinks_at_the_cap_and_reaches_it() -> None:
    world = settled(4)
    for domain in world.everything():
        domain.in_flight = 1
    world.group = group(max=1)
    world.want(1, generation=2)
    world.run(10)
    assert leaving(world) == 1
    for domain in world.everything():
        domain.in_flight = 0
    most = 0
    while not world.is_settled():
        assert world.now_s < 1300, world.summary()
        world.tick()
        most = max(most, leaving(world))
    assert most == 1
    assert list(world.summary()) == ["web-0000"]


def leaving(world: World) -> int:
    return sum(1 for phase in world.phases().values() if phase in ("draining", "stopping"))


@pytest.mark.parametrize("jump_s", [-3600.0, 3600.0])
def test_a_jump_of_the_wall_clock_changes_no_step(jump_s: float) -> None:
    steady, jumping = World(group()), World(group())
    scenario(steady)
    jumping.jump_at_s, jumping.jump_s = jumping.now_s + 5, jump_s  # while the first domains boot
    scenario(jumping)
    assert jumping.log == steady.log
    assert phase_steps(jumping) == phase_steps(steady)
    assert all(abs(float(domain.metadata["since_s"]) - jump_s - 1e9) < 3600 for domain in jumping.everything())


@pytest.mark.parametrize("order", ["drain", "replace"])
def test_ordered_domain_leaves_and_another_takes_its_place(order: str) -> None:
    world = settled(2)
    world.hosts["local"].by_name["web-0000"].metadata["order"] = order
    if order == "drain":
        world.hosts["local"].by_name["web-0000"].metadata["phase"] = "draining"
    fewest = 2
    until_s = world.now_s + 60
    while world.now_s < until_s:
        world.tick()
        fewest = min(fewest, world.ready())
    assert sorted(world.phases()) == ["web-0001", "web-0002"] and world.ready() == 2
    assert fewest == (2 if order == "replace" else 1)


def test_silent_decider_forbids_scale_in_and_still_replaces() -> None:
    world = settled(3)
    world.want(2, generation=2)
    world.is_decider_fresh = False
    world.run(60)
    assert world.ready() == 3
    world.hosts["local"].by_name["web-0000"].state = DomainState.CRASHED
    world.hosts["local"].by_name["web-0001"].state = DomainState.CRASHED
    world.run_until(lambda: world.ready() == 2)


def scenario(world: World) -> None:
    """Grow, lose one to a crash, shrink: every kind of step is in it."""
    world.want(3)
    world.run(OUT_IN)
    host = world.hosts["local"]
    for domain in [d for d in host.by_name.values() if d.name == "web-0001"]:
        domain.state = DomainState.CRASHED
    world.run(OUT_IN)
    world.want(1, generation=2)
    world.run(2 * OUT_IN)


def fault_free() -> World:
    world = World(group())
    scenario(world)
    return world


CHANGES = fault_free().changes


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("index", range(1, CHANGES + 1))
def test_killed_at_any_side_effect_the_end_is_the_same(when: str, index: int) -> None:
    world = World(group())
    setattr(world, f"kill_{when}", index)
    scenario(world)
    assert world.kills == 1
    assert world.is_settled(), world.summary()
    assert [state for state, _ in world.final().values()] == ["running"]
    assert world.most_owned <= world.group.ceiling
    defined = sum(1 for _, call, _ in world.log if call == "define")
    assert defined <= 5


@pytest.mark.parametrize("index", range(1, CHANGES + 1))
def test_domain_that_is_removed_by_hand_right_before_any_call_leads_to_the_same_end(index: int) -> None:
    world = World(group())
    host = world.hosts["local"]

    def gone(_call: str, name: str) -> HypervisorError | None:
        if world.changes == index:
            host.by_name.pop(name, None)
        return None

    host.fail = gone
    scenario(world)
    assert world.is_settled(), world.summary()
    assert [state for state, _ in world.final().values()] == ["running"]
    assert world.most_owned <= world.group.ceiling


@pytest.mark.parametrize("index", range(1, CHANGES + 1))
@pytest.mark.parametrize("error", [HypervisorError("refused"), HypervisorBusyError("late"), DomainGoneError("gone")])
@pytest.mark.long
def test_any_call_that_fails_once_leads_to_the_same_end(index: int, error: HypervisorError) -> None:
    world = World(group())
    world.hosts["local"].fail = lambda _call, _name: error if world.changes == index else None
    scenario(world)
    assert world.is_settled(), world.summary()
    assert world.most_owned <= world.group.ceiling


@pytest.mark.parametrize("gap_s", [0.0, 0.5, 3.0])
def test_each_that_is_lost_is_told_by_name_and_replaced_by_one(gap_s: float) -> None:
    world = settled(3)
    told, by_name = len(world.events), world.hosts["local"].by_name
    by_name["web-0001"].become(DomainState.SHUTOFF, "destroyed")
    world.run(gap_s)
    del by_name["web-0002"]  # it was undefined while it ran, and ended
    world.run(1)
    world.run_until(world.is_settled)
    events = world.events[told:]
    assert sorted(e.text for e in events if e.name == "domain-replaced") == ["replaces web-0001", "replaces web-0002"]
    assert sorted(e.domain for e in events if e.name == "domain-failed") == ["web-0001", "web-0002"]
    assert [e.domain for e in events if e.name == "step-failed"] == []


def test_what_somebody_undefines_while_it_shuts_down_for_us_is_told_as_stopped() -> None:
    world = settled(2)
    told = len(world.events)
    world.hosts["local"].by_name["web-0001"].is_deaf = True
    world.want(1, generation=2)
    world.run_until(lambda: world.phases().get("web-0001") == "stopping")
    del world.hosts["local"].by_name["web-0001"]
    world.run_until(world.is_settled)
    assert [(e.name, e.domain) for e in world.events[told:] if e.name in ("domain-stopped", "domain-failed")] == [
        ("domain-stopped", "web-0001")
    ]
