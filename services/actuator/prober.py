"""Asks booting domains whether they serve: by HTTP, the right one; an open port; or the guest's agent.

Short connection attempts many times a second, because a guest that has just configured its network drops the first
packets. A domain that answers under another name is not ready: the address may still be somebody else's.
"""

import http.client
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Final

from common.config import Group
from common.config_readiness import Question, Readiness, question
from common.errors import HypervisorError
from common.http_answer import HttpAnswer, ask_http
from common.messages import Unready
from common.plain import plain, plain_name
from services.actuator.core.seen import Probe

PERIOD_S: Final = 0.03  # one turn
QUICK_S: Final = 0.01  # while somebody is new: who is woken or cloned answers within a second, who boots does not
QUICK_TURNS: Final = 100
PATIENT_TURNS: Final = 1000  # who has not answered by then is asked every other turn, after as many more every third, …
LONGEST_TURNS: Final = 16
AGENT_TURNS: Final = 4  # a call to a guest's agent goes through libvirt and QEMU
CONNECT_TIMEOUT_S: Final = 0.1  # a lost first packet is sent again after 1 s: a new attempt is faster
THREADS: Final = 8
ANYWHERE: Final = question("localhost", Readiness())
MOST_SHOWN: Final = 64
AGENT: Final = "its guest agent"
SERVING_TURNS: Final = 33  # a second: one that serves and fails its checks may be overloaded

Identity = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask, and what the right answer is. ``name`` is expected only where ``is_identity_checked``.

    One that ``is_serving``, and fails its checks, is asked once a second: to tell why, and no load for it.
    """

    name: str
    address: str
    port: int
    protocol: str = "http"
    asked: Question = ANYWHERE
    is_identity_checked: bool = True
    timeout_s: float = 1.0
    host: str = ""
    is_serving: bool = False


def target_of(group_name: str, group: Group, host: str, name: str, address: str) -> Target:
    """Return how a domain of the group is asked."""
    readiness = group.readiness
    return Target(
        name=name,
        host=host,
        address=address,
        port=group.port,
        protocol=readiness.protocol,
        asked=question(group_name, readiness),
        is_identity_checked=group.is_identity_checked,
        timeout_s=readiness.timeout_s,
    )


AskAgent = Callable[[str, str, float], str | None]
"""Asks, on a host, a domain's guest agent, so many seconds at most, for the guest's name; None where nobody answers."""


class Prober:
    """A clockwork thread and a few that ask. Results are pushed: ``on_change`` is called when an answer differs."""

    def __init__(
        self, on_change: Callable[[], None], ask_agent: AskAgent | None = None, threads: int = THREADS
    ) -> None:
        """Start the threads; they sleep while there is nobody to ask."""
        self._on_change = on_change
        self._ask_agent = ask_agent or (lambda _host, _domain, _timeout_s: None)
        self._lock = threading.Lock()
        self._targets: dict[Identity, Target] = {}
        self._results: dict[Identity, Probe] = {}
        self._asking: set[Identity] = set()
        self._turns: dict[Identity, int] = {}
        self._has_targets = threading.Event()
        self._has_new = threading.Event()
        self._stopping = threading.Event()
        self._work: SimpleQueue[Identity | None] = SimpleQueue()
        for number in range(threads):
            threading.Thread(target=self._ask, name=f"probe-{number}", daemon=True).start()
        self._threads = threads
        threading.Thread(target=self._tick, name="probe-clock", daemon=True).start()

    def aim(self, targets: Mapping[Identity, Target]) -> None:
        """Ask these from now on, and forget what is known about all others."""
        with self._lock:
            if self._targets == targets:
                return
            is_new = not targets.keys() <= self._targets.keys()
            self._results = {key: self._results[key] for key in targets if self._is_same(key, targets)}
            self._targets = dict(targets)
            self._turns = {key: self._turns.get(key, 0) for key in targets}
        (self._has_targets.set if targets else self._has_targets.clear)()
        if is_new:
            self._has_new.set()  # ask at once: a resumed guest answers within milliseconds

    def results(self) -> dict[Identity, Probe]:
        """Return the newest answer of each."""
        with self._lock:
            return dict(self._results)

    def stop(self) -> None:
        """Tell the threads to end."""
        self._stopping.set()
        self._has_new.set()
        self._has_targets.set()
        for _ in range(self._threads):
            self._work.put(None)

    def _is_same(self, key: Identity, targets: Mapping[Identity, Target]) -> bool:
        return key in self._results and self._targets.get(key) == targets[key]

    def _tick(self) -> None:
        while not self._stopping.is_set():
            self._has_targets.wait()
            self._has_new.clear()
            with self._lock:
                due = [key for key in self._targets if key not in self._asking and self._is_due(key)]
                self._turns = {key: turns + 1 for key, turns in self._turns.items()}
                is_quick = min(self._turns.values(), default=QUICK_TURNS) < QUICK_TURNS
                self._asking.update(due)
            for key in due:
                self._work.put(key)
            self._has_new.wait(QUICK_S if is_quick else PERIOD_S)

    def _is_due(self, key: Identity) -> bool:
        turns = self._turns[key]
        target = self._targets[key]
        if target.is_serving:
            return turns % SERVING_TURNS == 0
        least = AGENT_TURNS if target.protocol == "agent" else 1
        return turns % min(max(turns // PATIENT_TURNS + 1, least), LONGEST_TURNS) == 0

    def _ask(self) -> None:
        while (key := self._work.get()) is not None:
            with self._lock:
                target = self._targets.get(key)
            result = None if target is None else replace(probe(target, self._ask_agent), address=target.address)
            with self._lock:
                self._asking.discard(key)
                is_news = result is not None and self._targets.get(key) == target and self._results.get(key) != result
                if is_news and result is not None:
                    self._results[key] = result
            if is_news:
                self._on_change()


def probe(target: Target, ask_agent: AskAgent = lambda _host, _domain, _timeout_s: None) -> Probe:
    """Return whether the right one answers; never raises for what a network, or a guest, can do."""
    if target.protocol == "agent":
        return _probe_agent(target, ask_agent)
    try:
        if target.protocol == "tcp":
            socket.create_connection((target.address, target.port), CONNECT_TIMEOUT_S).close()
            return Probe(True, detail="the port is open")
        return _ask_http(target)
    except (OSError, http.client.HTTPException) as error:
        return Probe(False, detail=f"no answer: {type(error).__name__}", why=no_answer(target, error))


def _ask_http(target: Target) -> Probe:
    answer = ask_http(
        target.asked, target.address, target.port, connect_timeout_s=CONNECT_TIMEOUT_S, timeout_s=target.timeout_s
    )
    return judge(target, answer)


def _probe_agent(target: Target, ask_agent: AskAgent) -> Probe:
    try:
        name = ask_agent(target.host, target.name, target.timeout_s)
    except HypervisorError as error:
        return Probe(False, detail=str(error), why=Unready(kind="agent", wanted=AGENT))
    if name is None:
        return Probe(False, detail="no answer from the guest agent", why=Unready(kind="agent", wanted=AGENT))
    name = plain_name(name)
    if target.is_identity_checked and name.partition(".")[0] != target.name.partition(".")[0]:
        why = Unready(kind="agent-identity", came=plain(name, MOST_SHOWN), wanted=target.name)
        return Probe(False, name, f"the guest is named {name or 'nothing'}", why=why)
    return Probe(True, name, "its guest agent answers")


def judge(target: Target, answer: HttpAnswer) -> Probe:
    """Return what an HTTP answer means; the name stands in ``X-Served-By``, or is the body."""
    answered = plain_name((answer.served_by or answer.body.decode("utf-8", "replace")).strip())
    if not target.asked.is_right(answer.status):
        why = _why(target, "status", came=str(answer.status), wanted=_wanted(target))
        return Probe(False, answered, f"status {answer.status}", why=why)
    if target.is_identity_checked and answered != target.name:
        why = _why(target, "identity", came=plain(answered, MOST_SHOWN), wanted=target.name)
        return Probe(False, answered, f"{answered or 'somebody without a name'} answers there", why=why)
    return Probe(True, answered, "it answers")


def no_answer(target: Target, error: Exception) -> Unready:
    """Return the fact that a question to the target ended in an error of the network, or of HTTP."""
    return _why(target, _kind_of(error), came=_said(error), wanted=_wanted(target))


def _why(target: Target, kind: str, came: str, wanted: str) -> Unready:
    path = target.asked.path if target.protocol == "http" else ""
    return Unready(kind=kind, address=target.address, port=target.port, path=path, came=came, wanted=wanted)


def _wanted(target: Target) -> str:
    return target.asked.wanted if target.protocol == "http" else "an open port"


def _kind_of(error: Exception) -> str:
    match error:
        case ConnectionRefusedError():
            return "refused"
        case TimeoutError():
            return "timeout"
        case http.client.HTTPException() | ConnectionError():
            return "broken"
        case _:
            return "unreachable"


def _said(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else "") or type(error).__name__
