"""What HAProxy's older processes still hold: those that a reload has left to finish what they had begun.

# Note [An old worker]
After a reload the old worker takes no new connection, shows its slots as they were, and does what it has begun: for as
long as its requests take, at most ``hard-stop-after``. It refuses ``set server``, checks nobody any more, and only the
master's socket leads to it. So it cannot be told that a member leaves. Two things follow. What it holds counts as in
flight. And a client whose connection is idle there may ask once more, and may be sent to whoever served when the reload
came: as long as there is such a client, nobody there is sure to be done.

# Note [Unknown is not empty]
Where the master or one of its workers does not say what it holds, nobody is said to be empty. A drain then lasts until
its deadline, which the actuator keeps.

# Note [By address]
A worker's slots are its own: that one of the present worker is given to somebody else changes nothing in the old one.
So what an old worker holds is looked up by the address that its slot leads to, and by whom the slot was given to.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from services.balancer.core.answers import Admin, Snapshot
from services.balancer.core.backends import Goal, Owner, Slot, Wanted, is_unexplained, match, with_owners
from services.balancer.core.workers import Worker

HARD_STOP_SLACK_S: Final = 2.0  # the master tells whole seconds
_NO_OWNERS: Final[Mapping[str, Owner]] = {}


@dataclass(frozen=True, slots=True)
class Old:
    """One old worker as just seen; ``since_s``: for about how long it has been old."""

    snapshot: Snapshot
    since_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Older:
    """All old workers. ``is_whole``: each of them was asked and has answered (see Note [Unknown is not empty])."""

    workers: tuple[Old, ...] = ()
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class Held:
    """What old workers hold of one member; ``may_grow``: a client of theirs may still ask it."""

    in_flight: int = 0
    may_grow: bool = False


NOTHING: Final = Held()


@dataclass(frozen=True, slots=True)
class Ending:
    """Sessions of an old worker that lead to who has left, or failed (``is_failure``)."""

    pid: int
    slot: str
    name: str
    is_failure: bool


@dataclass(frozen=True, slots=True)
class Elder:
    """One group's slots in one old worker; ``idle_clients``: connections that are at no server."""

    pid: int
    slots: tuple[Slot, ...]
    idle_clients: int = 0


@dataclass(slots=True)
class Remembered:
    """Whom the slots of old workers were given to, by process."""

    by_pid: dict[int, Mapping[str, Owner]] = field(default_factory=dict)

    def hand_over(self, pid: int, owners: Mapping[str, Owner]) -> None:
        """Keep the owners of a worker that has been replaced."""
        self.by_pid.setdefault(pid, dict(owners))

    def forget_but(self, pids: Iterable[int]) -> None:
        """Keep only those of workers that still are."""
        self.by_pid = {pid: self.by_pid[pid] for pid in pids if pid in self.by_pid}


def old_ones(workers: Sequence[Worker], present_pid: int) -> dict[int, float] | None:
    """Return the old workers, with for how long they have been that; None where a reload has just come between.

    Args:
        workers: as the master named them.
        present_pid: the process that answered at the runtime API just before that. After a reload that failed it is
            the newest of the old ones, and still serves.
    """
    by_pid = {worker.pid: worker for worker in workers}
    present = by_pid.get(present_pid)
    if present is None or (present.is_old and any(not worker.is_old for worker in workers)):
        return None
    return {worker.pid: _old_for_s(worker, workers) for worker in workers if worker.pid != present_pid}


def elders(group: str, older: Older, owners: Remembered) -> tuple[Elder, ...]:
    """Return the group's slots in every old worker that has it."""
    found = []
    for old in older.workers:
        servers = old.snapshot.servers.get(group)
        if servers is not None:
            slots = with_owners(servers, owners.by_pid.get(old.snapshot.pid, _NO_OWNERS))
            at_servers = sum(server.in_flight for server in servers)
            idle = max(0, old.snapshot.totals[group].clients - at_servers)
            found.append(Elder(old.snapshot.pid, slots, idle))
    return tuple(found)


def held(wanted: Wanted, old: Iterable[Elder]) -> dict[tuple[str, str], Held]:
    """Return what old workers hold of each member, by name and UUID; whoever they know nothing of is not there."""
    found: dict[tuple[str, str], Held] = {}
    for elder in old:
        slots = {slot.server.name: slot for slot in elder.slots}
        for name, placement in match(wanted, elder.slots).items():
            server, before = slots[name].server, found.get((placement.name, placement.uuid), NOTHING)
            may_come = elder.idle_clients > 0 and server.admin is Admin.READY and server.is_up
            found[placement.name, placement.uuid] = Held(
                before.in_flight + server.in_flight + server.queue, before.may_grow or may_come
            )
    return found


def endings(wanted: Wanted, old: Iterable[Elder]) -> tuple[Ending, ...]:
    """Return the slots of old workers whose sessions lead to nobody who is to finish them."""
    return tuple(
        Ending(elder.pid, slot.server.name, who, is_failure)
        for elder in old
        for slot, who, is_failure in _left(wanted, elder.slots)
        if slot.server.in_flight
    )


def occupied(wanted: Wanted, old: Iterable[Elder]) -> frozenset[tuple[str, int]]:
    """Return the addresses that old workers still have sessions with, of domains that are no members any more."""
    return frozenset(
        (slot.server.address, slot.server.port)
        for elder in old
        for slot in _unmatched(wanted, elder.slots)
        if slot.server.in_flight
    )


def in_flight(group: str, older: Older) -> int:
    """Return how many requests of the group are in flight in old workers."""
    snapshots = (old.snapshot for old in older.workers)
    return sum(shown.totals[group].in_flight for shown in snapshots if group in shown.totals)


def merged(before: Older, now: Older, passed_s: float) -> Older:
    """Return the later look, with what the earlier one showed of workers that have not answered since."""
    if now.is_whole:
        return now
    seen = {old.snapshot.pid for old in now.workers}
    silent = (replace(old, since_s=old.since_s + passed_s) for old in before.workers if old.snapshot.pid not in seen)
    return Older((*now.workers, *silent), is_whole=False)


def hard_stopped(before: Older, now: Older, passed_s: float, hard_stop_s: float) -> tuple[Snapshot, ...]:
    """Return the old workers that have ended since the earlier look because their time was up, as they were then.

    One that ends by itself has nothing left; so one that is gone before its time has finished what it had.

    Args:
        before: the earlier look.
        now: the later one; it must be whole, a worker that did not answer is not gone.
        passed_s: between the two.
        hard_stop_s: what ``hard-stop-after`` says.
    """
    left = {old.snapshot.pid for old in now.workers}
    return tuple(
        old.snapshot
        for old in before.workers
        if old.snapshot.pid not in left and old.since_s + passed_s >= hard_stop_s - HARD_STOP_SLACK_S
    )


def _old_for_s(worker: Worker, workers: Iterable[Worker]) -> float:
    """Return for how long it has been replaced: for as long as the oldest of its successors runs."""
    return max((other.uptime_s for other in workers if other.reloads < worker.reloads), default=0.0)


def _unmatched(wanted: Wanted, slots: Sequence[Slot]) -> list[Slot]:
    matched = match(wanted, slots)
    return [slot for slot in slots if slot.server.name not in matched and not is_unexplained(slot, wanted)]


def _left(wanted: Wanted, slots: Sequence[Slot]) -> Iterable[tuple[Slot, str, bool]]:
    matched = match(wanted, slots)
    for slot in slots:
        placement = matched.get(slot.server.name)
        if placement is not None and placement.goal in {Goal.OUT, Goal.CUT} and not placement.is_coming:
            yield slot, placement.name, placement.goal is Goal.CUT
    for slot in _unmatched(wanted, slots):
        yield slot, slot.owner.name if slot.owner else "", False
