"""What the domains themselves show: do they answer, what time do they tell, who do they say they are."""

import http.client
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

from cli.doctor.facts import MemberFacts, StopFacts
from cli.doctor.gather_images import machine_id_in
from cli.doctor.gather_libvirt import HostView, Owned
from common.clock import Clock
from common.config import Config, Group
from common.domain import DomainState
from common.errors import RecordingError
from common.http_answer import ask_http
from common.messages import Event, Membership, Unready
from common.recording import Recording, recording_dir
from services.actuator.core.events import NOT_IN_TIME
from services.actuator.prober import Target, judge, no_answer, target_of

THREADS: Final = 16
PATIENCE_S: Final = 2.0
PAST_S: Final = 86400.0
MAX_EVENTS: Final = 5000
_DUID_OF_MACHINE_ID: Final = ("00:02:00:00:ab:11:", "00:04:")  # RFC 8415; the first is systemd's


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back from a domain's readiness address, and how far its clock is from ours.

    ``why``: what came instead of what readiness wants.
    """

    is_right: bool
    detail: str
    clock_off_s: float | None
    why: Unready | None = None


def members(
    config: Config,
    name: str,
    views: Sequence[HostView],
    heard: Mapping[str, Membership],
    clock: Clock,
    *,
    is_thorough: bool,
) -> list[MemberFacts]:
    """Return the domains of a group, each asked at its address where it runs and has one."""
    group = config.groups[name]
    owned = [(domain, view) for view in views for domain in view.owned if domain.group == name]
    told = {member.uuid: member.address for member in heard[name].members} if name in heard else {}
    found = [_member(config, group, domain, view, told, is_thorough) for domain, view in owned]
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda member: _asked(name, group, member, clock), found))


def _member(
    config: Config, group: Group, domain: Owned, view: HostView, told: Mapping[str, str | None], is_thorough: bool
) -> MemberFacts:
    facts, record = domain.facts, domain.record
    address = told.get(facts.uuid) or group.addresses.get(facts.name) or domain.address
    if address is None and group.kind == "template" and record is not None and record.slot is not None:
        address = config.network.address(record.slot)
    return MemberFacts(
        name=facts.name,
        host=domain.host,
        uuid=facts.uuid,
        phase=record.phase.value if record else "",
        is_running=facts.state is DomainState.RUNNING,
        address=address,
        identities=_identities(domain, view, is_thorough),
        stop_calls=record.stop_calls if record else 0,
    )


def _identities(domain: Owned, view: HostView, is_thorough: bool) -> dict[str, str]:
    found = {}
    for nic in domain.nics:
        if duid := machine_duid(view.client_ids.get(nic.mac, "")):
            found["lease"] = duid
    for disk in domain.disks if view.libvirt.is_local else ():
        identity = _disk_identity(Path(disk), is_thorough)
        if identity:
            found["disk"] = identity
            break
    return found


def _disk_identity(path: Path, is_thorough: bool) -> str | None:
    try:
        with path.open("rb") as file:
            form = "qcow2" if file.read(4) == b"QFI\xfb" else "raw"
        return machine_id_in(path, form, is_thorough=is_thorough)
    except OSError:
        return None  # not ours to read, or gone


def machine_duid(client_id: str) -> str | None:
    """Return the part of a DHCP client identifier that is made from the machine-id, None where none is.

    >>> machine_duid("ff:56:50:4d:98:00:02:00:00:ab:11:01:02:03:04:05:06:07:08")
    '00:02:00:00:ab:11:01:02:03:04:05:06:07:08'
    >>> machine_duid("01:52:54:00:aa:00:00") is None
    True
    """
    kind, _, rest = client_id.lower().partition(":")
    duid = ":".join(rest.split(":")[4:])
    return duid if kind == "ff" and duid.startswith(_DUID_OF_MACHINE_ID) else None


def _asked(name: str, group: Group, member: MemberFacts, clock: Clock) -> MemberFacts:
    """Ask a domain as the actuator does, but no guest agent: that takes the right to change domains."""
    if not member.is_running or member.address is None or group.readiness.protocol == "agent":
        return member
    answer = ask(target_of(name, group, member.host, member.name, member.address), clock)
    clock_off_s, why = answer.clock_off_s, answer.why
    return replace(member, is_right=answer.is_right, detail=answer.detail, clock_off_s=clock_off_s, why=why)


def ask(target: Target, clock: Clock) -> Answer:
    """Return what the target answers; never raises for what a network can do."""
    try:
        if target.protocol != "http":
            socket.create_connection((target.address, target.port), PATIENCE_S).close()
            return Answer(True, "the port is open", None)
        return _ask_http(target, clock)
    except (OSError, http.client.HTTPException) as error:
        return Answer(False, f"no answer: {error or type(error).__name__}", None, no_answer(target, error))


def _ask_http(target: Target, clock: Clock) -> Answer:
    patience_s = max(PATIENCE_S, target.timeout_s)
    found = ask_http(target.asked, target.address, target.port, connect_timeout_s=patience_s, timeout_s=patience_s)
    result = judge(target, found)
    return Answer(result.is_right, result.detail, clock_off_s(found.date, clock.epoch_s()), result.why)


def clock_off_s(date: str | None, now_s: float) -> float | None:
    """Return how far an HTTP ``Date`` is ahead of us; None where there is none.

    >>> clock_off_s("Sun, 22 Nov 2026 19:00:00 GMT", 1795374000.0)
    0.0
    """
    if date is None:
        return None
    try:
        return parsedate_to_datetime(date).timestamp() - now_s
    except ValueError:
        return None


def stops(config: Config, names: Sequence[str], clock: Clock) -> dict[str, StopFacts]:
    """Return how domains of these groups left in the last day, from the recording; nothing where there is none."""
    left, forced = dict.fromkeys(names, 0), {name: set[str]() for name in names}
    for event in _events(config, clock.epoch_s() - PAST_S):
        if event.group not in left:
            continue
        left[event.group] += event.name == "domain-stopped"
        if event.name == "domain-powered-off" and event.text.startswith(NOT_IN_TIME):
            forced[event.group].add(event.domain)
    return {name: StopFacts(left[name], len(forced[name]), tuple(sorted(forced[name]))) for name in names}


def _events(config: Config, since_s: float) -> list[Event]:
    directory = recording_dir(config.system.state_path)
    found: list[Event] = []
    try:
        for _, _, body in Recording(directory).messages(since_s=since_s, kinds=["event"], newest_first=True):
            if isinstance(body, Event):
                found.append(body)
            if len(found) == MAX_EVENTS:
                break
    except RecordingError:
        return found  # `autoscaler events` tells what is wrong with it
    return found
