"""A frozen domain with nobody beside it: another one is started beside it soon; it keeps its power until then."""

import os
import signal

import pytest

from tests.e2e.service import MakeWorld, in_service
from tests.e2e.world import now_s, wait_until

pytestmark = pytest.mark.slow

GRACE_S = 5.0
HEARD_S = 5.0  # that it is frozen, and the last right answer before; a step that waits for its turn
BOOT_S = 60.0


def test_another_one_is_started_beside_it_a_grace_after_the_last_answer(make_world: MakeWorld) -> None:
    world = make_world("asez", 34, maximum="1", group_extra=f"unhealthy_grace_s = {GRACE_S}\nsurge = 1")
    with in_service(world, 1, rate=5) as service:
        (victim,) = service.whole.ready()
        service.power.forget()
        os.kill(world.qemu_pid(victim["name"]), signal.SIGSTOP)
        begin = now_s()
        wait_until(service.power.starts, BOOT_S, "another one's start")
        took_s = now_s() - begin
        assert service.power.ends() == [], "it keeps its power until another one serves"
        wait_until(lambda: {d["uuid"] for d in service.whole.ready()} - {victim["uuid"]}, BOOT_S, "another one serves")
        print(f"\n  started {took_s:.1f} s after the freeze, in rotation {now_s() - begin:.1f} s after it")
        assert GRACE_S - 1 < took_s < GRACE_S + HEARD_S
        wait_until(lambda: victim["uuid"] not in service.whole.owned().values(), BOOT_S, "the frozen one is gone")
        service.wait_until_whole()
        assert f"stands in for {victim['name']}" in world.autoscaler("events").stdout
