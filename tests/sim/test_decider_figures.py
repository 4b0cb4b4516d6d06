"""What a figure means: members that warm up, hosts that are full, work that no request asked for.

Each life is one that was seen, with its figures, and what must come of it; beside it the same where nothing is odd.
"""

from dataclasses import dataclass
from typing import Any

import pytest

from common.messages import DecisionRecord, HostSample, Traffic
from common.phases import Phase
from services.decider.core.events import SampleSeen
from services.decider.core.replay import IDENTICAL, UNKNOWN, replay
from tests.sim.burst_world import QUOTA, BurstWorld
from tests.sim.decider_model import Domain, World, calm, settings
from tests.sim.decider_tape import Tape

TRACKING = [{"type": "target-tracking", "target_ratio": 0.6}]
NEW_S = 60.0


def last(found: World) -> DecisionRecord:
    return found.state.history[-1]


# --- warm-up ---------------------------------------------------------------------------------------------------------


@dataclass
class WarmingWorld(World):
    """New members are fully busy with themselves for ``NEW_S`` after they have come into service."""

    def ratio(self, domain: Domain, busy: float) -> float | None:
        is_new = domain.phase(self.now_s) is Phase.READY and domain.age_s(self.now_s) < NEW_S
        return 1.0 if is_new else super().ratio(domain, busy)

    def age(self, seconds: float) -> "WarmingWorld":
        """Let the members be older."""
        for domain in self.domains:
            domain.started_s -= seconds
        return self


def warming(load: float, ready: int = 2, **changes: Any) -> WarmingWorld:
    table = {"kind": "existing", "max": 8, "cooldown_in_s": 30.0, "policies": TRACKING} | changes
    shape = load if callable(load) else lambda t: load
    return WarmingWorld(shape, settings=settings(**table), ready=ready, traffic=lambda t: calm(shape(t), in_flight=20))


def test_new_members_that_warm_up_ask_for_no_more_members() -> None:
    """Load for three at a target of 60 %: the third's own minute of work asked for 8, and had them in a minute."""
    found = warming(1.7).age(3600).run(180)
    assert found.path() == [2, 3]


def test_what_new_members_take_off_the_others_counts_at_once() -> None:
    found = warming(3.2).age(3600).run(180)
    assert found.path()[-1] == 6 and max(found.path()) == 6


def test_where_all_are_new_cpu_says_nothing_and_says_so() -> None:
    found = warming(0.5).run(50)
    assert found.path() == [2]
    assert last(found).limiter_text.endswith("but all have served for less than 60 s (warm_up_s)")
    assert last(found).counterfactual.startswith("10 s later CPU use counts for scale-out")
    assert last(found).evidence.domains_warming == 2


def test_where_all_are_new_a_queue_still_scales_out() -> None:
    found = warming(1.0)
    found.traffic = lambda t: calm(1.0, queue=3)
    assert found.run(20).path()[:2] == [2, 3]


def test_after_the_warm_up_an_overload_counts() -> None:
    found = warming(3.0).run(70)
    assert found.path()[:2] == [2, 4] and found.desired[1][0] >= NEW_S - 1


def test_for_scale_in_new_members_count_as_they_are() -> None:
    policies = [{"type": "threshold"}]
    found = warming(1.0, ready=4, policies=policies).run(50)
    assert found.path() == [4]
    assert found.run(60).path() == [4, 3]


def test_a_forecast_learns_nothing_of_the_work_that_new_members_do_for_themselves() -> None:
    forecast = {"type": "predictive", "mode": "on", "step_s": 5.0, "headroom": 0.0}
    policies = [{"type": "threshold", "high_ratio": 0.95}, forecast]
    found = warming(lambda t: 1.0 if t < 100 else 1.9, policies=policies).age(3600).run(400)
    assert max(found.path()) <= 4


def test_without_a_warm_up_the_use_of_new_members_counts_as_before() -> None:
    assert max(warming(1.7, warm_up_s=0.0).age(3600).run(180).path()) == 8


def test_the_outlook_looks_no_further_than_the_next_member_has_warmed_up() -> None:
    found = warming(0.5).run(50)
    (first, *_) = found.ask("explain").reply.data["outlooks"]
    assert first["to"] is None
    assert "for the next 10 s" in found.ask("explain").reply.data["text"]


# --- full hosts ------------------------------------------------------------------------------------------------------


@dataclass
class FullWorld(World):
    """All domains on one host of ``host_cpus``: who wants CPU gets an equal share, at most one CPU each."""

    host_cpus: int = 2
    strangers_cpus: float = 0.0  # what others on the host take first
    allotted_cpus: float = 1.0

    def sample(self) -> SampleSeen:
        running = [domain for domain in self.domains if not domain.is_dead]
        wanted = [self.wants_cpus(domain) for domain in running]
        there = self.host_cpus - self.strangers_cpus
        scale = min(1.0, there / sum(wanted)) if sum(wanted) else 1.0
        used = [cpus * scale for cpus in wanted]
        return self.told_sample(
            HostSample(
                host="local", interval_s=1.0, is_reachable=True,
                names=tuple(domain.name for domain in running), uuids=tuple(domain.uuid for domain in running),
                states=("running",) * len(running), cpu_ratios=tuple(cpus / self.allotted_cpus for cpus in used),
                allotted_cpus=(self.allotted_cpus,) * len(running),
                host_cpus=self.host_cpus, host_idle_cpus=max(there - sum(used), 0.0),
            )
        )  # fmt: skip

    def wants_cpus(self, domain: Domain) -> float:
        if domain.phase(self.now_s) is not Phase.READY:
            return self.allotted_cpus
        return min(self.load(self.t) / len(self.serving()), 1.0) * self.allotted_cpus


def full(load: float, ready: int = 8, **changes: Any) -> FullWorld:
    table = {"max": 12, "policies": TRACKING, "image": {"cpu_quota": 1.0}} | changes
    return FullWorld(lambda t: load, settings=settings(**table), ready=ready)


@pytest.mark.parametrize("policies", [TRACKING, [{"type": "threshold"}]])
def test_a_group_whose_domains_share_two_busy_cpus_is_not_taken_for_idle(policies: list[dict[str, Any]]) -> None:
    """Demand for 8, slow but steady, no queue: each uses a quarter of its CPU. The group scaled in from 8 to 5."""
    found = full(8.0, policies=policies).run(300)
    assert found.path() == [8]
    assert last(found).evidence.cpu_ratio == pytest.approx(1.0)
    assert last(found).limiter == "host-full"
    assert last(found).limiter_text.endswith(
        " wanted, but the CPUs of host local are all busy: one more would take from the others"
    )


def test_with_a_queue_on_a_full_host_no_more_domains_come_that_help_nobody() -> None:
    """It scaled out to its max of 12."""
    found = full(8.0)
    found.traffic = lambda t: calm(8.0, queue=40)
    assert found.run(300).path() == [8]
    assert last(found).limiter == "host-full"
    assert "fewer domains there, would let it scale out" in last(found).counterfactual


def test_explain_says_what_the_figure_is_a_share_of() -> None:
    page = full(8.0).run(30).ask("explain").reply.data["text"]
    assert "CPU 100 % (known of 8; on local, which is busy, of what they can have there)" in page


def test_a_full_host_that_becomes_idle_lets_the_group_shrink_and_grow() -> None:
    found = full(8.0).run(60)
    found.load = lambda t: 0.1
    assert found.run(900).path()[-1] == 1
    found.host_cpus, found.load = 16, lambda t: 9.0
    assert found.run(300).path()[-1] == 12


def test_an_idle_group_shrinks_beside_a_stranger_who_takes_all_that_is_left() -> None:
    found = full(0.16)
    found.strangers_cpus = 1.84
    assert found.run(1200).path()[-1] == 1
    assert last(found).evidence.cpu_ratio == pytest.approx(0.16, abs=0.01)


def test_an_operator_may_still_go_beyond_what_the_host_has() -> None:
    found = full(8.0).run(60)
    found.ask("scale", desired=10)
    assert found.run(10).path() == [8, 10]
    found.ask("bounds", min=11)
    assert found.run(10).path() == [8, 10, 11]


def test_a_calendar_may_too() -> None:
    always = {"type": "schedule", "cron": "* * * * *", "duration_s": 120.0, "capacity": 10}
    assert full(8.0, policies=[*TRACKING, always]).run(60).path() == [8, 10]


def test_another_host_with_idle_cpu_takes_the_next_domain() -> None:
    found = full(8.0, hosts=["local", "far"])
    assert found.run(60).path() == [8, 12]


def test_on_the_demo_s_machine_four_domains_fit() -> None:
    """Four of 0.4 CPUs on two that are all busy, with those that boot without their quota."""
    found = BurstWorld(
        lambda t: 4.0, settings=settings(image={"cpu_quota": QUOTA}), host_cpus=2, other_cpus=1.6
    )  # fmt: skip
    found.run(120)
    assert found.path()[-1] == 4
    assert {record.limiter for record in found.state.history}.isdisjoint({"host-full"})


# --- work that no request asked for ----------------------------------------------------------------------------------


def jobs(t: float) -> Traffic:
    """Return four short requests a second, so short that none is seen in flight."""
    return calm(0.2, request_rate=4.0, response_time_s=0.05, in_flight=0)


def busy(traffic: Any, **changes: Any) -> World:
    return World(lambda t: 9.0, settings=settings(max=12, **changes), traffic=traffic)


@pytest.mark.parametrize("policies", [[{"type": "threshold"}], TRACKING])
def test_nightly_jobs_in_all_guests_are_no_reason_to_scale_out(policies: list[dict[str, Any]]) -> None:
    """CPU at 100 % for 10 min at 4 requests/s: the group went from 1 to its max in 1.7 min."""
    found = busy(jobs, policies=policies).run(600)
    assert found.path() == [1]
    record = last(found)
    assert record.limiter_text.endswith(
        "but only 0.2 requests in flight: work that no request asked for (cpu_without_requests)"
    )
    assert record.votes[0].reason.startswith("CPU") and (record.votes[0].capacity, record.votes[0].wanted) == (1, 1)
    assert record.counterfactual.startswith("with requests in flight, or a queue, CPU use counts for scale-out again")


def test_where_the_file_says_so_it_counts() -> None:
    assert busy(jobs, cpu_without_requests="count").run(120).path()[-1] >= 8


@pytest.mark.parametrize(
    "changes",
    [
        {"queue": 1},  # somebody waits
        {"in_flight": 9},  # as many as the CPUs in use, and more
        {"response_time_s": 2.5},  # four a second for 2.5 s each, though the instants show none
        {"in_flight": None, "response_time_s": None},  # unknown
    ],
)
def test_an_overload_by_requests_is_never_hidden(changes: dict[str, Any]) -> None:
    found = busy(lambda t: calm(0.2, request_rate=4.0, response_time_s=0.05, in_flight=0).model_copy(update=changes))
    assert found.run(30).path()[-1] >= 3


def test_slots_that_are_all_taken_are_an_overload_whatever_the_mean() -> None:
    taken = calm(0.2, request_rate=4.0, response_time_s=0.01, in_flight=1)
    found = busy(lambda t: jobs(t) if t < 21 else taken, max_in_flight=1).run(20)
    assert found.path() == [1]
    found.run(1)
    trend = found.state.seen.trend
    assert trend is not None and trend.means(5.0).in_flight < 0.5
    assert found.path() == [1, 2]


def sockets(count: int, slots: int, ready: int = 1) -> World:
    """Return a group with so many connections that stay and do nothing; who finds no slot is refused in the end."""

    def carried(_t: float) -> Traffic:
        left, taken = count, []
        for _ in found.serving():
            taken.append(min(left, slots))
            left -= taken[-1]
        names = tuple(domain.name for domain in found.serving())
        return calm(0.0, in_flight=sum(taken)).model_copy(update={"names": names, "in_flights": tuple(taken)})

    found = World(lambda t: 0.02, settings=settings(max=2, max_in_flight=slots), traffic=carried, ready=ready)
    return found


def test_idle_connections_that_take_every_slot_scale_out_and_keep_what_they_need() -> None:
    """70 idle WebSockets, 64 slots: the group stayed at 1, and six were refused."""
    found = sockets(70, 64).run(600)
    assert found.path() == [1, 2]
    assert "70 in flight need more than the 64 slots of one domain fewer" in str(last(found).votes)


def test_idle_connections_that_leave_slots_free_ask_for_nothing_and_keep_nobody() -> None:
    assert sockets(50, 64).run(60).path() == [1]
    assert sockets(50, 64, ready=2).run(120).path() == [2, 1]


def test_connections_are_no_requests() -> None:
    assert busy(jobs, protocol="tcp").run(60).path()[-1] >= 5


def test_requests_that_come_to_a_group_that_works_for_itself_count_within_seconds() -> None:
    found = busy(lambda t: jobs(t) if t <= 300 else calm(1.0, in_flight=1)).run(300)
    assert found.path() == [1]
    assert found.run(5).path() == [1, 2]


def test_a_group_that_has_carried_no_request_for_an_hour_is_judged_by_its_cpu() -> None:
    """Its members work off a queue of their own."""
    found = busy(lambda t: jobs(t) if t < 10 else calm(0.0, in_flight=0)).run(3600)
    assert found.path() == [1]
    assert found.run(60).path()[-1] >= 4
    assert busy(lambda t: calm(0.0, in_flight=0)).run(60).path()[-1] >= 4


def test_for_scale_in_such_cpu_use_counts_as_before() -> None:
    found = World(lambda t: 9.0, settings=settings(max=12), traffic=jobs, ready=4).run(300)
    assert found.path() == [4]


def test_a_burst_is_for_requests_too() -> None:
    table = {"image": {"cpu_quota": QUOTA}, "burst": {"enabled": True}, "max": 1}
    idle = BurstWorld(lambda t: 4.0, settings=settings(**table), traffic=lambda t: calm(0.1, in_flight=0)).run(60)
    assert last(idle).burst_quota is None
    asked = BurstWorld(lambda t: 4.0, settings=settings(**table), traffic=lambda t: calm(4.0)).run(60)
    assert last(asked).burst_quota == 1.0


@pytest.mark.parametrize("found", [warming(1.7), full(8.0), busy(jobs)], ids=["new", "full", "jobs"])
def test_a_recording_of_it_repeats_byte_for_byte(found: World) -> None:
    tape = Tape(found).run(150)
    verdicts = [one.verdict for one in replay(tape.frames, lambda *_: None)]
    assert verdicts == [IDENTICAL] * 150


def test_a_recording_that_begins_long_after_the_last_request_still_knows_of_it() -> None:
    found = busy(lambda t: jobs(t) if t < 10 else calm(0.0, in_flight=0))
    tape = Tape(found).run(900)
    cut = next(n for n, frame in enumerate(tape.frames) if frame.mono_s > found.now_s - 280)
    replayed = list(replay(tape.frames[cut:], lambda *_: found.settings))
    assert found.path() == [1] and replayed[0].verdict == UNKNOWN
    assert {one.verdict for one in replayed[150:]} == {IDENTICAL}
