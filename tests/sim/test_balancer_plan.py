"""The balancer's plan against a model of HAProxy: any history, cut anywhere, ends where it should.

The model obeys commands as HAProxy 2.6 does: a slot that leaves maintenance is up and not yet checked, a check of a
dead address takes it down, and a slot that is down loses what was in flight; a drained slot gets no request, one in
maintenance loses what was in flight; one whose checks are stopped stays as it is, and counts as up only after a check.
"""

import random
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from services.balancer.core.answers import Admin, Server
from services.balancer.core.backends import (
    Assign,
    Clear,
    Cut,
    Goal,
    Owner,
    Placement,
    SetDrain,
    SetMaint,
    SetReady,
    StartChecks,
    Step,
    StopChecks,
    Wanted,
    match,
    next_owners,
    plan,
    with_owners,
)
from services.balancer.core.haproxy_config import EMPTY_ADDRESS, EMPTY_PORT

SLOTS = 4
PORT = 80


def empty(number: int) -> Server:
    return Server(
        name=f"vm{number}",
        address=EMPTY_ADDRESS,
        port=EMPTY_PORT,
        admin=Admin.MAINT,
        status="MAINT",
        is_weight_right=True,
        in_flight=0,
        queue=0,
        connections=0,
        sessions_total=0,
        response_time_s=0.0,
        check="",
        changed_s=0.0,
    )


@dataclass
class ModelProxy:
    """HAProxy with ``SLOTS`` slots; ``alive`` are the addresses that answer a check."""

    alive: set[str]

    def __post_init__(self) -> None:
        self.servers = [empty(number) for number in range(1, SLOTS + 1)]

    def obey(self, step: Step) -> None:
        index = int(step.slot[2:]) - 1
        server = self.servers[index]
        match step:
            case Assign(owner=owner, is_trusted=is_trusted):
                assert server.admin is Admin.MAINT, "an address is changed only in maintenance"
                admin, status = (Admin.READY, "UP 1/2") if is_trusted else (Admin.DRAIN, "DRAIN 1/2")
                server = replace(
                    server,
                    address=owner.address,
                    port=owner.port,
                    admin=admin,
                    status=status,
                    is_weight_right=True,
                    has_checks=True,
                )
            case SetReady(is_trusted=is_trusted):
                status = "UP" if server.is_up or is_trusted else server.status
                server = replace(server, admin=Admin.READY, status=status, is_weight_right=True)
            case SetDrain():
                server = replace(server, admin=Admin.DRAIN, status=server.status.replace("UP", "DRAIN"))
            case SetMaint() | Cut():
                server = replace(server, admin=Admin.MAINT, status="MAINT", in_flight=0)
            case StopChecks():
                server = replace(server, status="NOLB", has_checks=False)
            case StartChecks(is_fresh=is_fresh):
                server = replace(server, status="NOLB" if is_fresh else server.status, has_checks=True)
            case Clear():
                assert server.is_idle, "an address is taken only from an idle slot"
                server = replace(server, address=EMPTY_ADDRESS, port=EMPTY_PORT)
        self.servers[index] = server

    def check(self) -> None:
        for index, server in enumerate(self.servers):
            if server.admin is not Admin.MAINT and server.has_checks:
                good = "UP" if server.admin is Admin.READY else "DRAIN"
                is_alive = server.address in self.alive
                in_flight = server.in_flight if is_alive else 0
                self.servers[index] = replace(server, status=good if is_alive else "DOWN", in_flight=in_flight)

    def serve(self, rng: random.Random) -> None:
        """Send requests to the slots that take them, and finish some."""
        for index, server in enumerate(self.servers):
            started = rng.randrange(3) if server.admin is Admin.READY and server.is_up else 0
            finished = rng.randrange(server.in_flight + 1)
            in_flight = server.in_flight + started - finished
            self.servers[index] = replace(server, in_flight=in_flight, connections=in_flight)

    def finish(self) -> None:
        self.servers = [replace(server, in_flight=0, connections=0, queue=0) for server in self.servers]

    def meddle(self, rng: random.Random) -> None:
        """Do to a slot what a person may do at the socket."""
        index = rng.randrange(SLOTS)
        server = self.servers[index]
        admin = rng.choice(list(Admin))
        status = {Admin.READY: "UP", Admin.DRAIN: "DRAIN", Admin.MAINT: "MAINT"}[admin]
        has_checks = rng.random() < 0.5
        self.servers[index] = replace(
            server, admin=admin, status=status, is_weight_right=rng.random() < 0.5, has_checks=has_checks
        )


@dataclass
class ModelBalancer:
    """The shell's loop without its I/O: look, plan, order; ``owners`` is all that it remembers."""

    proxy: ModelProxy

    def __post_init__(self) -> None:
        self.owners: dict[str, Owner] = {}

    def look(self, wanted: Wanted, cut_after: int = 100) -> tuple[Step, ...]:
        slots = with_owners(self.proxy.servers, self.owners)
        steps = plan(wanted, slots)
        check_steps(wanted, slots, steps)
        self.owners = next_owners(wanted, slots, steps)
        for step in steps[:cut_after]:
            self.proxy.obey(step)
        return steps


def check_steps(wanted: Wanted, slots: tuple, steps: tuple[Step, ...]) -> None:
    """Check what must hold of every plan."""
    servers = {slot.server.name: slot.server for slot in slots}
    assert len({step.slot for step in steps}) == len(steps), "one step for each slot"
    serving = {(p.name, p.uuid) for p in wanted.placements if p.goal is Goal.SERVE}
    matched = match(wanted, slots)
    assert len(set(matched.values())) == len(matched), "never a member in two slots"
    for step in steps:
        if isinstance(step, Assign):
            assert (step.owner.name, step.owner.uuid) in serving, "no pick of a draining member"
        if isinstance(step, SetReady):
            assert matched[step.slot].goal is Goal.SERVE
            server, is_outage = (
                servers[step.slot],
                not any(s.admin is Admin.READY and s.is_up for s in servers.values()),
            )
            assert not step.is_trusted or (is_outage and server.status == "NOLB"), "trusted only if nobody serves"
            assert step.is_trusted or server.is_proven or server.admin is Admin.READY
        if isinstance(step, SetMaint | Cut) and step.slot in matched:
            assert matched[step.slot].goal in (Goal.OUT, Goal.CUT), "nothing of the others is cut"


def check_slots(proxy: ModelProxy) -> None:
    """Check what must hold of HAProxy at any moment: no address in two slots."""
    addresses = [server.address for server in proxy.servers if server.address != EMPTY_ADDRESS]
    assert len(addresses) == len(set(addresses))


def settle(proxy: ModelProxy, balancer: ModelBalancer, wanted: Wanted) -> int:
    """Look until nothing is left to do; return after how many looks."""
    for count in range(30):
        proxy.finish()
        proxy.check()
        if not balancer.look(wanted):
            return count
    raise AssertionError(f"not settled: {proxy.servers}")


def check_end(proxy: ModelProxy, wanted: Wanted) -> None:
    """Check the end of every history: who is to serve serves, who drains drains, nothing else has a slot."""
    serving = {p.address for p in wanted.placements if p.goal is Goal.SERVE}
    draining = {p.address for p in wanted.placements if p.goal is Goal.DRAIN}
    ready = {server.address for server in proxy.servers if server.admin is Admin.READY}
    drained = {server.address for server in proxy.servers if server.admin is Admin.DRAIN}
    unchecked = {server.address for server in proxy.servers if not server.has_checks} - {EMPTY_ADDRESS}
    held = {p.address for p in wanted.placements if p.goal is Goal.HOLD}
    busy = {server.address for server in proxy.servers} - {EMPTY_ADDRESS}
    assert ready == serving & proxy.alive
    assert drained <= (serving - proxy.alive) | draining | held
    assert unchecked == drained & held
    assert busy == ready | drained
    assert all(server.is_weight_right for server in proxy.servers if server.admin is Admin.READY)


goals = st.sampled_from(list(Goal))
lives = st.tuples(st.integers(1, SLOTS), goals, st.integers(0, 1), st.booleans())
histories = st.lists(st.lists(lives, max_size=SLOTS, unique_by=lambda life: life[0]), min_size=1, max_size=6)


def wanted_of(members: list[tuple[int, Goal, int, bool]]) -> Wanted:
    """Return members at addresses of their own; the same address may have another UUID in the next membership."""
    placements = tuple(
        Placement(f"web-{n:04d}", f"u{n}-{life}", f"10.0.0.{n}", PORT, goal, is_known_good)
        for n, goal, life, is_known_good in members
    )
    return Wanted(placements, is_complete=True)


@settings(max_examples=300, deadline=None)
@given(histories, st.integers(0, 2**32), st.sets(st.integers(1, SLOTS)))
def test_any_history_cut_anywhere_ends_where_it_should(
    history: list[list[tuple[int, Goal, int, bool]]], seed: int, dead: set[int]
) -> None:
    rng = random.Random(seed)
    # A dead member that served before may be trusted while nobody serves; it is ready, and down.
    proxy = ModelProxy({f"10.0.0.{n}" for n in range(1, SLOTS + 1)} - {f"10.0.0.{n}" for n in dead})
    balancer = ModelBalancer(proxy)
    for members in history:
        members = [(n, goal, life, is_known_good and n not in dead) for n, goal, life, is_known_good in members]
        wanted = wanted_of(members)
        for _ in range(rng.randrange(4)):
            proxy.serve(rng)
            if rng.random() < 0.7:
                proxy.check()
            balancer.look(wanted, cut_after=rng.randrange(4))
            check_slots(proxy)
            if rng.random() < 0.2:
                balancer = ModelBalancer(proxy)  # killed and started again
        proxy.serve(rng)
    balancer.look(wanted)
    settle(proxy, balancer, wanted)
    check_end_with_dead_ready(proxy, wanted)
    assert plan(wanted, with_owners(proxy.servers, balancer.owners)) == ()


def check_end_with_dead_ready(proxy: ModelProxy, wanted: Wanted) -> None:
    """As ``check_end``; a member in rotation that died since is HAProxy's own business: ready, and down."""
    serving = {p.address for p in wanted.placements if p.goal is Goal.SERVE}
    ready = {server.address for server in proxy.servers if server.admin is Admin.READY}
    assert serving & proxy.alive <= ready <= serving
    others = {s.address for s in proxy.servers if s.admin is not Admin.READY} - {EMPTY_ADDRESS}
    draining = {p.address for p in wanted.placements if p.goal is Goal.DRAIN}
    held = {p.address for p in wanted.placements if p.goal is Goal.HOLD}
    assert others <= (serving - proxy.alive) | draining | held


@settings(max_examples=150, deadline=None)
@given(st.lists(lives, max_size=SLOTS, unique_by=lambda life: life[0]), st.integers(0, 2**32))
def test_a_person_at_the_socket_is_undone(members: list[tuple[int, Goal, int, bool]], seed: int) -> None:
    rng = random.Random(seed)
    proxy = ModelProxy({f"10.0.0.{n}" for n in range(1, SLOTS + 1)})
    balancer, wanted = ModelBalancer(proxy), wanted_of(members)
    settle(proxy, balancer, wanted)
    check_end(proxy, wanted)
    for _ in range(5):
        proxy.meddle(rng)
    settle(proxy, balancer, wanted)
    check_end(proxy, wanted)


@settings(max_examples=150, deadline=None)
@given(histories, st.integers(0, 2**32))
def test_order_of_observation_does_not_matter(history: list[list[tuple[int, Goal, int, bool]]], seed: int) -> None:
    rng = random.Random(seed)
    proxy = ModelProxy({f"10.0.0.{n}" for n in range(1, SLOTS + 1)})
    balancer = ModelBalancer(proxy)
    for members in history:
        wanted = wanted_of(members)
        shuffled = Wanted(tuple(rng.sample(wanted.placements, len(wanted.placements))), True)
        slots = with_owners(proxy.servers, balancer.owners)
        assert plan(wanted, slots) == plan(shuffled, slots)
        assert _summary(plan(wanted, slots)) == _summary(plan(wanted, rng.sample(slots, len(slots))))
        balancer.look(wanted)
        proxy.check()


def _summary(steps: tuple[Step, ...]) -> set[object]:
    """Return the steps, but for which of the free slots a member gets."""
    return {step.owner if isinstance(step, Assign) else step for step in steps}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(0, 2**32))
def test_what_a_suspended_member_works_on_is_never_cut(is_suspended: list[bool], seed: int) -> None:
    """Whatever the checks find while it is paused, and whenever the balancer is killed."""
    rng = random.Random(seed)
    address = "10.0.0.1"
    proxy = ModelProxy({address})
    balancer, wanted = ModelBalancer(proxy), wanted_of([(1, Goal.SERVE, 0, False)])
    settle(proxy, balancer, wanted)
    index = next(index for index, server in enumerate(proxy.servers) if server.address == address)
    for paused in is_suspended:
        proxy.servers[index] = replace(proxy.servers[index], in_flight=3)
        wanted = wanted_of([(1, Goal.HOLD if paused else Goal.SERVE, 0, False)])
        balancer.look(wanted)
        proxy.alive = set() if paused else {address}
        for _ in range(rng.randrange(4)):
            proxy.check()
            if rng.random() < 0.3:
                balancer = ModelBalancer(proxy)
            balancer.look(wanted)
        assert proxy.servers[index].in_flight == 3
        assert not (paused and proxy.servers[index].admin is Admin.READY and proxy.servers[index].is_up)
    proxy.alive = {address}
    wanted = wanted_of([(1, Goal.SERVE, 0, False)])
    settle(proxy, balancer, wanted)
    check_end(proxy, wanted)


def test_haproxy_that_forgot_everything_is_filled_within_one_look() -> None:
    proxy = ModelProxy({f"10.0.0.{n}" for n in range(1, SLOTS + 1)})
    balancer, wanted = ModelBalancer(proxy), wanted_of([(n, Goal.SERVE, 0, True) for n in (1, 2, 3)])
    settle(proxy, balancer, wanted)
    proxy.servers = [empty(number) for number in range(1, SLOTS + 1)]
    balancer.look(wanted)
    assert {s.address for s in proxy.servers if s.admin is Admin.READY} == {"10.0.0.1", "10.0.0.2", "10.0.0.3"}
    check_slots(proxy)


def test_warm_member_gets_no_request_before_its_check() -> None:
    proxy = ModelProxy(set())
    balancer, wanted = ModelBalancer(proxy), wanted_of([(1, Goal.SERVE, 0, False)])
    for _ in range(5):
        balancer.look(wanted)
        assert not any(server.admin is Admin.READY for server in proxy.servers)
        proxy.check()
    proxy.alive = {"10.0.0.1"}
    settle(proxy, balancer, wanted)
    check_end(proxy, wanted)
