"""Existing groups in the model world: the user's own domains are started and stopped, never defined nor undefined."""

import pytest

from common.domain import DomainState
from tests.sim.actuator_model import FakeDomain, World, group

AS_FAST_AS_THE_DEMO = {"boot_timeout_s": 90.0, "stop_timeout_s": 10.0, "unhealthy_grace_s": 10.0}


def users_world(count: int = 4, running: tuple[int, ...] = (), **changes: object) -> World:
    world = World(group(kind="existing", address_source="arp", **(AS_FAST_AS_THE_DEMO | changes)))
    host = world.hosts["local"]
    for index in range(count):
        name = f"web-{index:04d}"
        host.by_name[name] = FakeDomain(name, f"u-{index}")
        if index in running:
            host.by_name[name].state, host.by_name[name].started_s = DomainState.RUNNING, 0.0
    return world


def running(world: World) -> list[str]:
    return sorted(d.name for d in world.everything() if d.state is DomainState.RUNNING)


def test_domains_are_started_lowest_index_first() -> None:
    world = users_world()
    world.want(2)
    world.run_until(lambda: world.ready() == 2)
    assert running(world) == ["web-0000", "web-0001"]


def test_running_domains_are_adopted_without_a_restart() -> None:
    world = users_world(running=(2, 3))
    world.want(2)
    world.run_until(lambda: world.ready() == 2)
    assert running(world) == ["web-0002", "web-0003"]
    assert not any(call in ("start", "define", "shutdown") for _, call, _ in world.log)


def test_scale_in_shuts_down_and_never_undefines_nor_destroys() -> None:
    world = users_world()
    world.want(3)
    world.run_until(lambda: world.ready() == 3)
    world.want(1, generation=2)
    world.run_until(lambda: world.ready() == 1 and len(running(world)) == 1)
    world.run(10)
    assert running(world) == ["web-0000"] and len(world.everything()) == 4
    assert not any(call in ("undefine", "define", "destroy") for _, call, _ in world.log)


def test_domain_that_does_not_shut_down_is_asked_again_and_never_cut_off() -> None:
    world = users_world()
    world.want(2)
    world.run_until(lambda: world.ready() == 2)
    world.hosts["local"].by_name["web-0001"].is_deaf = True
    world.want(1, generation=2)
    world.run(120)
    calls = [call for _, call, name in world.log if name == "web-0001"]
    assert calls.count("shutdown") > 3 and "destroy" not in calls


def test_more_than_exist_are_not_made_up() -> None:
    world = users_world(count=2)
    world.want(4)
    world.run(60)
    assert world.ready() == 2
    assert world.message is not None and "no other domain named web-0000 and up exists" in world.message.blocked


@pytest.mark.parametrize("state", [DomainState.SHUTOFF, DomainState.CRASHED])
def test_domain_that_stopped_by_itself_is_started_again(state: DomainState) -> None:
    world = users_world(count=1)
    world.want(1)
    world.run_until(lambda: world.ready() == 1)
    world.hosts["local"].by_name["web-0000"].state = state
    world.tick()
    world.run_until(lambda: world.ready() == 1)
    assert [call for _, call, _ in world.log].count("start") == 2


def test_users_paused_domain_is_left_for_its_owner_and_another_takes_over() -> None:
    world = users_world()
    world.want(1)
    world.run_until(lambda: world.ready() == 1)
    world.hosts["local"].by_name["web-0000"].state = DomainState.PAUSED
    world.tick()
    world.run_until(lambda: world.ready() == 1)
    world.run(60)
    assert world.hosts["local"].by_name["web-0000"].state is DomainState.PAUSED
    assert running(world) == ["web-0001"]


def test_frozen_domain_of_the_user_is_power_cycled_where_its_file_says_so() -> None:
    world = users_world(count=1, power_off="after-stop-timeout")
    world.want(1)
    world.run_until(lambda: world.ready() == 1)
    domain = world.hosts["local"].by_name["web-0000"]
    domain.is_deaf, domain.is_unhealthy_since_s = True, world.now_s
    world.run_until(lambda: ("destroy", "web-0000") in [(call, name) for _, call, name in world.log])
    domain.is_deaf, domain.is_unhealthy_since_s = False, None
    world.run_until(lambda: world.ready() == 1)


def test_domain_started_by_hand_is_adopted_and_stays_until_a_capacity_is_ordered() -> None:
    world = users_world()
    world.want(1)
    world.run_until(lambda: world.ready() == 1)
    extra = world.hosts["local"].by_name["web-0003"]
    extra.state, extra.started_s = DomainState.RUNNING, world.now_s
    world.run_until(lambda: world.ready() == 2)
    world.run(200)
    assert running(world) == ["web-0000", "web-0003"]
    world.want(1, generation=2)
    world.run_until(lambda: len(running(world)) == 1 and world.ready() == 1)


def test_running_domain_that_never_answered_us_is_left_as_it_is_and_another_serves() -> None:
    world = users_world(running=(2,), boot_timeout_s=5.0)
    silent = world.hosts["local"].by_name["web-0002"]
    silent.never_boots = True
    world.want(1)
    world.run_until(lambda: world.ready() == 1)
    assert running(world) == ["web-0000", "web-0002"]
    assert [call for _, call, name in world.log if name == "web-0002"] == ["set_metadata", "set_metadata"]
    assert world.message is not None and world.message.blocked == "", "the group has what it wants"
    assert any("not answering, left as they are: web-0002" in note for note in world.message.notes)
    silent.never_boots = False
    world.run_until(lambda: world.phases().get("web-0002") in ("ready", "draining"))


def test_domains_without_four_digits_are_none_of_ours() -> None:
    world = users_world(count=0)
    for name in ("web-1", "web-abcd", "website", "other-0001"):
        world.hosts["local"].by_name[name] = FakeDomain(name, f"u-{name}", DomainState.RUNNING)
    world.want(2)
    world.run(30)
    assert world.changes == 0


def test_breaker_holds_for_domains_that_do_not_start() -> None:
    world = users_world(count=1, boot_timeout_s=5.0, stop_timeout_s=2.0)
    world.hosts["local"].by_name["web-0000"].never_boots = True
    world.want(1)
    world.run(55)
    assert [call for _, call, _ in world.log].count("start") == 3
    assert world.message is not None and world.message.breaker == "open"


def scenario(world: World) -> None:
    world.want(3)
    world.run(40)
    world.hosts["local"].by_name["web-0001"].state = DomainState.CRASHED
    world.run(40)
    world.want(1, generation=2)
    world.run(80)


def fault_free() -> World:
    world = users_world()
    scenario(world)
    return world


CHANGES = fault_free().changes


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("index", range(1, CHANGES + 1))
def test_killed_at_any_side_effect_the_end_is_the_same(when: str, index: int) -> None:
    world = users_world()
    setattr(world, f"kill_{when}", index)
    scenario(world)
    assert world.kills == 1
    assert len(running(world)) == 1 and world.ready() == 1 and len(world.everything()) == 4
    assert not any(call in ("undefine", "define", "destroy") for _, call, _ in world.log)


def test_suspended_domain_that_was_never_taken_in_is_named_and_joins_when_it_runs() -> None:
    world = users_world(running=(0,))
    held = world.hosts["local"].by_name["web-0001"]
    held.state, held.reason = DomainState.PAUSED, "user"
    world.want(2)
    world.run(30)
    assert world.message is not None and world.message.blocked == "", "another one serves instead"
    assert any("not of the group before they run: web-0001" in note for note in world.message.notes)
    assert "web-0001" not in [name for _, _, name in world.log]
