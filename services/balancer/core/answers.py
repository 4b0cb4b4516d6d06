"""What HAProxy's runtime API says, as values.

Columns are found by their header name, so that a newer HAProxy may add some. What is not an answer raises
``ProxyError``; half an answer is never used. A line ends with a line feed and nothing else: the reason of a failed
check is a guest's text, and holds what other programs take for line ends.
"""

import csv
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from common import figures
from common.plain import plain, plain_name
from services.balancer.errors import ProxyError

LOOK: Final = ("show info", "show stat", "show servers state")
BACKENDS: Final = "show stat -1 2 -1"
_DAMAGE: Final = (KeyError, IndexError, ValueError, csv.Error)  # what a reader of an answer meets that is none
_MAINT_FLAGS: Final = 0x01 | 0x02 | 0x20 | 0x40  # forced, inherited, unresolved, changed by name
_DRAIN_FLAGS: Final = 0x08 | 0x10  # forced, inherited
_CHECKS_ENABLED: Final = 0x04  # of srv_check_state; the other bits: running, configured, paused for maintenance
_TIMED_OUT: Final = ("L4TOUT", "L6TOUT", "L7TOUT")
_GOOD: Final = ("L4OK", "L6OK", "L7OK")
_NO_RESULT: Final = ("UNK", "INI")  # HAProxy has just begun
_DONE: Final = ("IP changed", "no need to change", "nothing changed")
_STATE_VERSION: Final = "1"
MAX_FAULT: Final = 300


class Admin(StrEnum):
    """What was ordered for a server."""

    READY = "ready"
    DRAIN = "drain"
    MAINT = "maint"


@dataclass(frozen=True, slots=True)
class Server:
    """One slot as HAProxy shows it.

    ``status`` is HAProxy's own word: ``UP``, ``UP 1/2`` (going down), ``DOWN``, ``DOWN 1/2`` (coming up), ``DRAIN``,
    ``DRAIN 1/2``, ``NOLB`` (nothing new until a check succeeds), ``MAINT``, ``no check``. ``changed_s``: seconds since
    it last changed. ``connections``: to the server, in use or idle. ``has_checks``: HAProxy checks it, or will when it
    leaves maintenance. ``answers`` grows with each answer of the server itself, in TCP mode with each byte.
    ``redispatched``: how many requests that were sent to it went to another one. ``is_unchecked``: its occupant has not
    been checked yet, and ``check`` is empty for that (``firsts``).
    """

    name: str
    address: str
    port: int
    admin: Admin
    status: str
    is_weight_right: bool
    in_flight: int
    queue: int
    connections: int
    sessions_total: int
    response_time_s: float
    check: str
    changed_s: float
    has_checks: bool = True
    answers: int = 0
    redispatched: int = 0
    is_unchecked: bool = False

    @property
    def is_idle(self) -> bool:
        """Return whether nothing goes through this slot any more."""
        return self.in_flight == self.queue == self.connections == 0

    @property
    def is_busy(self) -> bool:
        """Return whether somebody waits for this server."""
        return self.in_flight + self.queue > 0

    @property
    def is_up(self) -> bool:
        """Return whether HAProxy would send it traffic if it were ready."""
        return self.status.startswith(("UP", "DRAIN", "no check"))

    @property
    def is_proven(self) -> bool:
        """Return whether a check has succeeded since the slot left maintenance (see the note below)."""
        # Note [A fresh check]: a slot that leaves maintenance starts as ``DRAIN 1/2`` (up, about to fall), with the
        # check result of whoever had the slot before. Only a check of the present occupant takes it to plain ``DRAIN``.
        # Nor does a slot say anything of the present while its checks are stopped. One that is fully up though its last
        # check failed is so by our own word (``health up``).
        return self.has_checks and self.is_fully_up and not has_failed(self.check)

    @property
    def is_fully_up(self) -> bool:
        """Return whether it is up, and no check that failed counts."""
        return self.status in {"UP", "DRAIN"}

    @property
    def is_falling(self) -> bool:
        """Return whether it is up, and further failed checks take it down."""
        return self.status.startswith("UP ")

    @property
    def is_held(self) -> bool:
        """Return whether it was told to take nothing new until a check succeeds."""
        return self.status.startswith("NOLB")

    @property
    def is_unreachable(self) -> bool:
        """Return whether its last check was not even connected in time."""
        return self.has_checks and self.check.startswith("L4TOUT")

    @property
    def times_out(self) -> bool:
        """Return whether its last check had no answer in time, which is not to say that it was refused one."""
        return self.has_checks and self.check.startswith(_TIMED_OUT)


def has_succeeded(check: str) -> bool:
    """Return whether the words for a server's last check are those of one that succeeded.

    >>> has_succeeded("L7OK HTTP status 200"), has_succeeded("L4TOUT"), has_succeeded("INI"), has_succeeded("")
    (True, False, False, False)
    """
    return check.startswith(_GOOD)


def has_failed(check: str) -> bool:
    """Return whether they are those of one that failed; where there was none yet, they are neither.

    >>> has_failed("L7OK HTTP status 200"), has_failed("L4TOUT"), has_failed("INI"), has_failed("")
    (False, True, False, False)
    """
    return bool(check) and not check.startswith((*_GOOD, *_NO_RESULT))


@dataclass(frozen=True, slots=True)
class Totals:
    """A group's counters since HAProxy started, and its present figures; ``answers`` is None in TCP mode.

    ``clients``: connections at its endpoint, with a request or without one.
    """

    requests: int
    errors: int
    queue: int
    in_flight: int
    queue_time_s: float
    response_time_s: float
    answers: int | None = None
    clients: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that one look at a process of HAProxy shows. ``state_dump`` is the text that its state file holds."""

    pid: int
    servers: Mapping[str, tuple[Server, ...]]
    totals: Mapping[str, Totals]
    state_dump: str


def split_answers(text: str, count: int) -> list[str]:
    """Return the answers to ``count`` commands that were sent as one line: each ends with an empty line.

    Raises:
        ProxyError: there are not as many.
    """
    answers: list[str] = []
    lines: list[str] = []
    for line in text.removesuffix("\n").split("\n"):
        if line:
            lines.append(line)
        else:
            answers.append("\n".join(lines))
            lines = []
    if lines or len(answers) != count:
        raise ProxyError(f"HAProxy gave {len(answers)} answers to {count} commands; the last begins {text[-80:]!r}")
    return answers


def refusal(answer: str) -> str:
    """Return why HAProxy did not do what was ordered, empty when it did.

    >>> refusal("no need to change the addr, port changed from '80' to '81'"), refusal("No such server.")
    ('', 'No such server.')
    """
    return "" if not answer or answer.startswith(_DONE) else plain(answer.partition("\n")[0])


def parse_look(answers: Iterable[str], groups: Collection[str]) -> Snapshot:
    """Return what the answers to ``LOOK`` show of ``groups``; other proxies are ignored.

    Raises:
        ProxyError: an answer lacks what it must have.
    """
    info, stat, state = answers
    try:
        rows, dump = _rows(stat), _state_rows(state)
        servers = {group: _servers(group, rows, dump) for group in groups if (group, "BACKEND") in rows}
        totals = {group: _totals(rows[group, "FRONTEND"], rows[group, "BACKEND"]) for group in servers}
        return Snapshot(_pid(info), servers, totals, state + "\n")
    except _DAMAGE as error:
        raise _unreadable(error) from error


def requests_in_flight(stat: str) -> int:
    """Return how many requests, of all groups, are in flight by an answer to ``BACKENDS``; those that wait count.

    Raises:
        ProxyError: the answer lacks what it must have.
    """
    try:
        return sum(_present(row["scur"]) for row in _rows(stat).values())
    except _DAMAGE as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> ProxyError:
    return ProxyError(plain(f"HAProxy's answer cannot be read: {type(error).__name__} {error}", MAX_FAULT))


def durable(snapshot: Snapshot) -> tuple[object, ...]:
    """Return what of the slots must survive a restart of HAProxy."""
    return tuple(
        (group, s.name, s.address, s.port, s.admin, s.is_weight_right, s.is_up, s.has_checks)
        for group, servers in snapshot.servers.items()
        for s in servers
    )


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table; a cell is found by its column's name."""

    columns: Mapping[str, int]
    cells: list[str]

    def __getitem__(self, name: str) -> str:
        return self.cells[self.columns[name]]


Rows = dict[tuple[str, str], Row]


def _pid(info: str) -> int:
    for line in info.split("\n"):
        if line.startswith("Pid: "):
            return figures.whole(line[5:], 0, figures.MAX_COUNT)
    raise ValueError("no Pid in show info")


def _rows(stat: str) -> Rows:
    if not stat.startswith("# "):
        raise ProxyError(f"HAProxy's statistics begin {stat[:80]!r}; '# pxname' is expected")
    return _table(csv.reader(stat[2:].split("\n")), "pxname", "svname")


def _state_rows(state: str) -> Rows:
    version, _, text = state.partition("\n# ")
    if version != _STATE_VERSION:
        raise ProxyError(f"HAProxy's servers state has version {version[:20]!r}; {_STATE_VERSION} is spoken here")
    return _table((line.split(" ") for line in text.split("\n") if line), "be_name", "srv_name")


def _table(lines: Iterable[list[str]], proxy: str, server: str) -> Rows:
    """Return the lines by proxy and server; the first line names the columns."""
    header, *rest = lines
    columns = {name: index for index, name in enumerate(header)}
    rows = (Row(columns, cells) for cells in rest)
    return {(row[proxy], row[server]): row for row in rows}


def _servers(group: str, rows: Rows, dump: Rows) -> tuple[Server, ...]:
    return tuple(_server(name, rows[group, name], row) for (backend, name), row in dump.items() if backend == group)


def _server(name: str, stat: Row, state: Row) -> Server:
    return Server(
        name=name,
        address=plain_name(state["srv_addr"]),
        port=figures.whole(state["srv_port"], 0, 65535),
        admin=_admin(_present(state["srv_admin_state"])),
        status=plain_name(stat["status"]),
        is_weight_right=state["srv_uweight"] == state["srv_iweight"],
        in_flight=_present(stat["scur"]),
        queue=_present(stat["qcur"]),
        connections=sum(_present(stat[key]) for key in ("used_conn_cur", "idle_conn_cur", "safe_conn_cur")),
        sessions_total=_count(stat["stot"]),
        response_time_s=_mean_s(stat),
        check=plain(f"{stat['check_status'].removeprefix('* ')} {stat['last_chk']}".strip()),
        changed_s=figures.number(stat["lastchg"] or "0", 0, figures.MAX_DURATION_S),
        has_checks=bool(_present(state["srv_check_state"]) & _CHECKS_ENABLED),
        answers=_answers(stat),
        redispatched=_count(stat["wredis"]),
    )


def _answers(stat: Row) -> int:
    """Return what the server has answered so far; what HAProxy says in its place is not counted."""
    if stat["mode"] != "http":
        return _count(stat["bout"])
    return sum(_count(stat[f"hrsp_{kind}"]) for kind in ("1xx", "2xx", "3xx", "4xx", "5xx", "other"))


def _admin(flags: int) -> Admin:
    if flags & _MAINT_FLAGS:
        return Admin.MAINT
    return Admin.DRAIN if flags & _DRAIN_FLAGS else Admin.READY


def _totals(front: Row, back: Row) -> Totals:
    is_http = front["mode"] == "http"
    faults = [front["hrsp_5xx"]] if is_http else [back["econ"], back["eresp"]]
    return Totals(
        requests=_count(front["req_tot"] if is_http else front["stot"]),
        errors=sum(_count(fault) for fault in faults),
        queue=_present(back["qcur"]),
        in_flight=_present(back["scur"]),
        queue_time_s=_present(back["qtime"]) / 1000,
        response_time_s=_mean_s(back),
        answers=_count(back["hrsp_2xx"]) + _count(back["hrsp_3xx"]) if is_http else None,
        clients=_count(front["scur"]),
    )


def _mean_s(row: Row) -> float:
    """Return the mean time a server took to answer; in TCP mode, the mean length of a session."""
    return _present(row["rtime"] if row["mode"] == "http" else row["ttime"]) / 1000


def _count(cell: str) -> int:
    """Return a counter, which grows for as long as HAProxy runs."""
    return figures.whole(cell, 0, figures.MAX_NUMBER) if cell else 0


def _present(cell: str) -> int:
    """Return how many there are now, or milliseconds."""
    return figures.whole(cell, 0, figures.MAX_COUNT) if cell else 0
