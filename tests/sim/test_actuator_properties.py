"""What holds for the actuator under any sequence of wishes, faults and kills, in the model world."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from common.domain import DomainState
from common.errors import DomainGoneError, HypervisorBusyError, HypervisorError, HypervisorLostError
from common.phases import Phase
from services.actuator.core.plan import plan
from services.actuator.core.steps import SetPhase
from tests.sim.actuator_model import FakeDomain, World, group

FAULTS = (
    "want",
    "crash",
    "pause",
    "sick",
    "well",
    "kill",
    "fail",
    "vanish",
    "lose",
    "find",
    "mute",
    "speak",
    "protect",
)
ERRORS = (HypervisorError("no"), HypervisorBusyError("late"), DomainGoneError("gone"), HypervisorLostError("lost"))

moves = st.lists(st.tuples(st.sampled_from(FAULTS), st.integers(0, 7), st.integers(0, 12)), max_size=25)


def apply(world: World, move: str, number: int, generation: int) -> None:
    """Do one thing to the world."""
    host = world.hosts["a" if number % 2 else "b"]
    ours = [d for d in world.everything() if d.uuid != "u-foreign"]
    domain = ours[number % len(ours)] if ours else None
    match move:
        case "want":
            world.want(number % 5, generation=generation)
        case "kill":
            world.kill_before = world.changes + 1 + number
        case "fail":
            world.hosts["a"].fail = lambda _call, _name: ERRORS[number % 4] if world.changes % 3 == 0 else None
        case "lose":
            host.is_lost = True
        case "find":
            host.is_lost = False
        case "mute":
            world.is_balancer_alive = False
        case "speak":
            world.is_balancer_alive = True
    if domain is None:
        return
    match move:
        case "crash":
            domain.state = DomainState.CRASHED
        case "pause" if domain.state is DomainState.RUNNING:
            domain.become(DomainState.PAUSED, "unknown")  # by somebody else: our own pauses are a user's
        case "sick":
            domain.is_unhealthy_since_s = world.now_s
        case "well":
            domain.is_unhealthy_since_s = None
        case "vanish":
            for each in world.hosts.values():
                if each.by_name.get(domain.name) is domain:
                    del each.by_name[domain.name]
        case "protect":
            domain.metadata["protected"] = "1"


def heal(world: World) -> None:
    """End every fault; who has paused a domain lets it go on, for nobody else does."""
    for host in world.hosts.values():
        host.is_lost = False
        host.fail = lambda _call, _name: None
    for domain in world.everything():
        domain.is_unhealthy_since_s = None
        domain.metadata.pop("protected", None)
        if (domain.state, domain.reason) == (DomainState.PAUSED, "unknown"):
            domain.become(DomainState.RUNNING, "unpaused")
    world.is_balancer_alive = True
    world.kill_before = None


def check(world: World, foreign: FakeDomain) -> None:
    """The invariants that hold at every moment."""
    assert world.hosts["a"].by_name["web-0001"] is foreign
    assert foreign.metadata == {} and foreign.state is DomainState.RUNNING
    assert world.most_owned <= world.group.ceiling
    slots = [(d.metadata["host"], d.metadata["slot"]) for d in world.everything() if d.metadata]
    assert len(slots) == len(set(slots))


@settings(max_examples=60, deadline=None)
@given(moves)
def test_any_faults_keep_the_invariants_and_end_in_the_desired_state(script: list[tuple[str, int, int]]) -> None:
    suffer(script, {})


@settings(max_examples=40, deadline=None)
@given(moves)
def test_any_faults_leave_a_group_with_its_capacity_and_its_reserve(script: list[tuple[str, int, int]]) -> None:
    suffer(script, {"warm": {"paused": 1, "saved": 1}})


def suffer(script: list[tuple[str, int, int]], keys: dict[str, object]) -> None:
    """Play the script in a world whose group has these keys, then heal it: it must end in order."""
    world = World(group(hosts=("a", "b"), boot_timeout_s=20.0, drain_timeout_s=10.0, **keys), hosts=("a", "b"))
    foreign = FakeDomain("web-0001", "u-foreign", DomainState.RUNNING)
    world.hosts["a"].by_name["web-0001"] = foreign
    for turn, (move, number, ticks) in enumerate(script):
        apply(world, move, number, generation=turn + 1)
        for _ in range(ticks):
            before = {d.uuid for d in world.everything() if d.metadata.get("protected") == "1"}
            mark = len(world.steps)
            world.tick()
            check(world, foreign)
            chosen = [s for s in world.steps[mark:] if isinstance(s, SetPhase) and s.record.phase is Phase.DRAINING]
            assert not any(step.uuid in before for step in chosen), "a protected domain was chosen to leave"
    heal(world)
    world.want(2, generation=100)
    world.tick()  # what the last move did is seen
    world.run_until(world.is_settled, limit_s=6000)
    check(world, foreign)
    changes = world.changes
    world.run(20)
    assert world.changes == changes, "a satisfied group plans nothing"


@settings(max_examples=60, deadline=None)
@given(moves, st.randoms(use_true_random=False))
def test_order_of_observation_does_not_matter(script: list[tuple[str, int, int]], random: object) -> None:
    world = World(group(hosts=("a", "b")), hosts=("a", "b"))
    world.want(3)
    world.run(8)
    for turn, (move, number, _) in enumerate(script):
        apply(world, move, number, generation=turn + 2)
    world.kill_before = None
    world.now_s += 1
    world.look()
    seen = world.seen()
    mixed = replace(
        seen,
        hosts=tuple(replace(host, domains=shuffled(host.domains, random)) for host in shuffled(seen.hosts, random)),
    )
    assert plan(world.wanted(), mixed, world.now_s) == plan(world.wanted(), seen, world.now_s)


def shuffled(values: tuple, random: object) -> tuple:  # type: ignore[type-arg] # of anything
    mixed = list(values)
    random.shuffle(mixed)  # type: ignore[attr-defined] # hypothesis gives a Random
    return tuple(mixed)
