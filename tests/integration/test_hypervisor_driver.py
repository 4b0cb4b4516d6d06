"""The one door to libvirt, on libvirt's own test driver: no hypervisor needed."""

import inspect
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import libvirt
import pytest

from common.config import Network
from common.domain import DomainState, LifecycleEvent
from common.errors import DomainGoneError, HypervisorError, HypervisorLostError
from common.hypervisor import Connection
from common.network_xml import network_xml
from common.phases import Phase
from services.actuator.core.record import Record, parse
from services.actuator.prober import Target, probe
from tests.faults.proof import Proof
from tests.integration.monitor_stand import CLOCK, PrivateLibvirtd, is_ours, test_domain, wait_for
from tests.named import Named

URI = "test:///default"
NAME = "hvtest-0000"
HOSTILE = {"group": 'a"b', "note": "</member>;<x/>"}


@pytest.fixture
def host() -> Iterator[Connection]:
    connection = Named.open(URI, is_read_only=False, may_touch=is_ours)
    yield connection
    remove(connection, *[facts.name for facts in connection.domains()])
    connection.remove_network("hvtest-net")
    connection.close()


def remove(connection: Connection, *names: str) -> None:
    for name in names:
        connection.destroy(name)
        connection.undefine(name)


def state(host: Connection, name: str = NAME) -> DomainState:
    return next(facts.state for facts in host.domains() if facts.name == name)


class Binary(BaseHTTPRequestHandler):
    """A guest whose health page is no text."""

    def do_GET(self) -> None:
        body = b"\x01hello\x1b[2J\x9b\xff"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_libvirt_takes_a_record_with_whatever_a_guest_has_answered(host: Connection) -> None:
    host.define(test_domain(NAME))
    server = HTTPServer(("127.0.0.1", 0), Binary)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    try:
        answer = probe(Target(NAME, "127.0.0.1", server.server_port))
    finally:
        thread.join(10)
        server.server_close()
    assert not answer.is_right and "hello" in answer.answered
    record = Record(
        group="web", uuid="u", host="local", phase=Phase.BOOTING, since_mono_s=1.0, since_s=1.0, boot_id="b",
        note=answer.detail,
    )  # fmt: skip
    host.set_metadata(NAME, record.to_metadata())
    assert parse(host.domains()[0].metadata) == record


def test_a_defined_domain_is_listed_with_its_uuid_and_no_metadata(host: Connection) -> None:
    uuid = host.define(test_domain(NAME))
    (facts,) = host.domains()
    assert (facts.name, facts.uuid, facts.state, facts.is_persistent) == (NAME, uuid, DomainState.SHUTOFF, True)
    assert facts.metadata == {}


def test_foreign_domains_are_not_listed(host: Connection) -> None:
    assert [facts.name for facts in host.domains()] == []
    assert host.cpu_readings() == []


@pytest.mark.fault(51)
@pytest.mark.parametrize("is_running", [False, True])
def test_metadata_are_replaced_whole_and_hostile_values_survive(host: Connection, is_running: bool, row: Proof) -> None:
    host.define(test_domain(NAME))
    if is_running:
        host.start(NAME)
    host.set_metadata(NAME, {"group": "web", "phase": "ready"})
    host.set_metadata(NAME, HOSTILE)
    assert host.domains()[0].metadata == HOSTILE
    row.held("what has a place in XML once it is escaped comes back from libvirt as it was given")


def test_metadata_written_while_running_outlive_the_stop(host: Connection) -> None:
    host.define(test_domain(NAME))
    host.start(NAME)
    host.set_metadata(NAME, {"group": "web"})
    host.destroy(NAME)
    assert host.domains()[0].metadata == {"group": "web"}


def test_a_domain_that_carries_our_metadata_is_ours_whatever_its_name(host: Connection) -> None:
    host.define(test_domain(NAME))
    host.set_metadata(NAME, {"group": "web"})
    stranger = Named.open(URI, is_read_only=False, may_touch=lambda _name: False)
    try:
        assert [facts.name for facts in stranger.domains()] == [NAME]
        assert [reading.name for reading in stranger.cpu_readings()] == [NAME]
        stranger.start(NAME)
        assert state(host) is DomainState.RUNNING
    finally:
        stranger.close()


def test_a_test_removes_its_own_domains_and_not_those_of_another_installation(host: Connection) -> None:
    host.define(test_domain(NAME))
    host.set_metadata(NAME, {"group": "web"})
    stranger = Named.open(URI, is_read_only=False, may_touch=lambda _name: False)
    try:
        stranger.remove_mine()
        assert [facts.name for facts in stranger.domains()] == [NAME]
        host.start(NAME)
        mine = Named.open(URI, is_read_only=False, may_touch=is_ours)
        mine.remove_mine()
        assert mine.domains() == []
        mine.close()
    finally:
        stranger.close()


def test_the_whole_life_of_a_domain(host: Connection) -> None:
    host.define(test_domain(NAME))
    for change, expected in (
        (host.start, DomainState.RUNNING),
        (host.suspend, DomainState.PAUSED),
        (host.resume, DomainState.RUNNING),
        (host.shutdown, DomainState.SHUTOFF),
        (host.start, DomainState.RUNNING),
        (host.destroy, DomainState.SHUTOFF),
    ):
        change(NAME)
        assert state(host) is expected
    host.undefine(NAME)
    assert host.domains() == []


def test_changes_that_are_so_already_are_no_errors(host: Connection) -> None:
    host.define(test_domain(NAME))
    for change in (host.shutdown, host.destroy, host.start, host.start, host.resume):
        change(NAME)
    assert state(host) is DomainState.RUNNING


def test_a_link_that_is_down_is_seen_of_new_clones_only(host: Connection) -> None:
    nic = "<devices><interface type='user'><link state='down'/></interface></devices></domain>"
    host.define(test_domain(NAME).replace("</domain>", nic))
    host.start(NAME)
    for cloned, phase, has_link in (("1", "booting", False), ("1", "ready", True), ("0", "booting", True)):
        host.set_metadata(NAME, {"group": "web", "cloned": cloned, "phase": phase})
        assert host.domains()[0].has_link is has_link
    host.set_metadata(NAME, {"group": "web", "cloned": "1", "phase": "booting"})
    host.destroy(NAME)
    assert host.domains()[0].has_link, "nobody asked"


def test_a_saved_memory_is_seen_of_each_of_ours_and_serves_once(host: Connection) -> None:
    host.define(test_domain(NAME))
    host.start(NAME)
    host.set_metadata(NAME, {"group": "web", "tier": "saved"})
    host.save(NAME)
    host.save(NAME)  # saved already: fine
    (facts,) = host.domains()
    assert (facts.state, facts.has_saved_state) == (DomainState.SHUTOFF, True)
    host.set_metadata(NAME, {"group": "web", "tier": ""})
    assert host.domains()[0].has_saved_state, "its owner has saved it"
    host.start(NAME)
    host.destroy(NAME)
    assert not host.domains()[0].has_saved_state


@pytest.mark.parametrize("verb", ["start", "shutdown", "destroy", "undefine", "suspend", "resume", "save"])
def test_a_foreign_domain_is_never_changed(host: Connection, verb: str) -> None:
    with pytest.raises(HypervisorError, match=r"refused to .* test: it matches no group's prefix"):
        getattr(host, verb)("test")


def test_nothing_is_written_to_or_defined_over_a_foreign_domain(host: Connection) -> None:
    for change in (
        lambda: host.set_metadata("test", {"group": "web"}),
        lambda: host.set_quota("test", 0.5),
        lambda: host.define(test_domain("test")),
        lambda: host.define(test_domain("unheard-of")),
        lambda: host.run_once(test_domain("unheard-of"), 0.1),
    ):
        with pytest.raises(HypervisorError, match="refused"):
            change()


@pytest.mark.parametrize("verb", ["start", "shutdown", "destroy", "undefine", "suspend", "resume", "save"])
def test_a_domain_that_is_gone_is_told_as_gone(host: Connection, verb: str) -> None:
    with pytest.raises(DomainGoneError, match=f"{NAME}.*Domain not found"):
        getattr(host, verb)(NAME)


def test_an_unknown_element_is_refused_not_dropped(host: Connection) -> None:
    with pytest.raises(HypervisorError, match="bogus"):
        host.define(test_domain(NAME).replace("<memory", "<bogus/><memory"))


def test_a_quota_out_of_range_is_refused(host: Connection) -> None:
    with pytest.raises(HypervisorError, match=r"cpu_quota must be in \[0.01, 1\]"):
        host.set_quota(NAME, 1.5)


def test_a_reading_has_cpu_time_and_allotment(host: Connection) -> None:
    host.define(test_domain(NAME, vcpus=2))
    host.define(test_domain("hvtest-0001"))
    host.start(NAME)
    running, off = host.cpu_readings()
    assert running.cpu_time_s is not None and running.cpu_time_s >= 0
    assert (running.state, running.allotted_cpus) == (DomainState.RUNNING, 2.0)
    assert abs(CLOCK.monotonic_s() - running.read_at_s) < 1
    assert (off.state, off.cpu_time_s, off.allotted_cpus) == (DomainState.SHUTOFF, None, None)


def test_a_reading_of_a_domain_that_does_not_run_says_why(host: Connection) -> None:
    host.define(test_domain(NAME))
    host.start(NAME)
    host.suspend(NAME)
    (paused,) = host.cpu_readings()
    assert (paused.state, paused.state_reason, paused.cpu_time_s) == (DomainState.PAUSED, "user", None)
    host.destroy(NAME)
    (off,) = host.cpu_readings()
    assert (off.state, off.state_reason) == (DomainState.SHUTOFF, "destroyed")


def test_a_network_that_vanished_since_it_was_listed_is_left_out(
    host: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Network(name="hvtest-net", bridge="hvtest0", subnet="192.168.249.0/24", slots=2)
    host.ensure_network(network_xml(network), network.name)
    before = host.networks()
    listed = libvirt.virConnect.listAllNetworks

    def then_removed(raw: libvirt.virConnect, flags: int) -> list[libvirt.virNetwork]:
        found = listed(raw, flags)
        host.remove_network(network.name)
        return found

    monkeypatch.setattr(libvirt.virConnect, "listAllNetworks", then_removed)
    assert any(network.name in text for text, _ in before)
    assert host.networks() == [(text, is_on) for text, is_on in before if network.name not in text]


def test_a_domain_that_vanished_after_the_listing_has_no_reading(host: Connection) -> None:
    uuid = host.define(test_domain(NAME))
    host.refresh()
    remove(host, NAME)
    assert (host.known(), host.reading(uuid)) == ({uuid: NAME}, None)


def test_lifecycle_events_arrive_in_order(host: Connection) -> None:
    seen: list[LifecycleEvent] = []
    host.watch(seen.append, lambda: None)
    host.define(test_domain(NAME))
    for change in (host.start, host.suspend, host.resume, host.destroy, host.undefine):
        change(NAME)
    wait_for(lambda: len(seen) >= 6)
    assert [event.kind for event in seen] == ["defined", "started", "paused", "resumed", "stopped", "undefined"]
    assert seen[-2].detail == "destroyed"


def test_a_transient_domain_that_does_not_end_is_ended_at_the_deadline(host: Connection) -> None:
    assert host.run_once(test_domain("autoscaler-probe-hvtest"), 0.05) is None
    with pytest.raises(DomainGoneError):
        host.destroy("autoscaler-probe-hvtest")


def test_a_transient_domain_that_ends_tells_why(host: Connection) -> None:
    name = "autoscaler-probe-hvtest"
    host.watch(lambda event: event.kind == "started" and end.start(), lambda: None)
    end = threading.Thread(target=lambda: host.shutdown(name))
    assert host.run_once(test_domain(name), 20) == "shutdown"


def test_the_end_of_the_run_before_is_not_taken_for_this_one(host: Connection) -> None:
    """Libvirt tells of an end when the next domain of that name may run already."""
    ends = [host.run_once(test_domain("autoscaler-probe-hvtest"), deadline_s) for deadline_s in (0.0, 0.1) * 5]
    assert ends == [None] * 10


def test_a_probe_domain_is_never_listed(host: Connection) -> None:
    listed: list[int] = []
    host.watch(lambda event: event.kind == "started" and look.start(), lambda: None)
    look = threading.Thread(target=lambda: listed.append(len(host.domains()) + len(host.cpu_readings())))
    host.run_once(test_domain("autoscaler-probe-hvtest"), 1.0)
    wait_for(lambda: bool(listed))
    assert listed == [0]


def test_a_network_is_made_kept_extended_and_removed(host: Connection) -> None:
    for slots in (3, 3, 5, 2):
        host.ensure_network(network_xml(Network(name="hvtest-net", bridge="hvtest0", slots=slots)), "hvtest-net")
        assert host.has_network("hvtest-net")
    host.remove_network("hvtest-net")
    host.remove_network("hvtest-net")
    assert not host.has_network("hvtest-net")


def test_a_network_that_is_not_ours_is_never_touched(host: Connection) -> None:
    for change in (
        lambda: host.ensure_network(network_xml(Network(name="default")), "default"),
        lambda: host.remove_network("default"),
    ):
        with pytest.raises(HypervisorError, match=r"network 'default' .* is not ours"):
            change()
    assert host.has_network("default")


def test_the_host_tells_what_it_has(host: Connection) -> None:
    assert host.host_cpus() > 0
    assert host.free_memory_bytes() > 0
    assert host.host_facts().domain_types == {"test"}


def test_a_closed_connection_is_not_alive_and_calls_say_lost() -> None:
    connection = Named.open(URI, is_read_only=True, may_touch=is_ours)
    connection.ping()
    connection.close()
    connection.close()
    assert not connection.is_alive()
    with pytest.raises(HypervisorLostError):
        connection.domains()


def test_a_host_that_cannot_be_reached_is_lost() -> None:
    with pytest.raises(HypervisorLostError, match=r"cannot connect to test:///nowhere.xml"):
        Named.open("test:///nowhere.xml", is_read_only=True, may_touch=is_ours)


def test_listing_stays_cheap_with_two_hundred_domains(host: Connection) -> None:
    names = [f"hvtest-{number:04d}" for number in range(200)]
    for name in names:
        host.define(test_domain(name))
    start_s = CLOCK.monotonic_s()
    assert [facts.name for facts in host.domains()] == names
    assert [reading.name for reading in host.cpu_readings()] == names
    assert CLOCK.monotonic_s() - start_s < 2


# --- through a daemon --------------------------------------------------------------------------------------------


@pytest.fixture
def daemon() -> Iterator[PrivateLibvirtd]:
    daemon = PrivateLibvirtd()
    yield daemon
    daemon.close()


def test_a_read_only_connection_changes_nothing(daemon: PrivateLibvirtd) -> None:
    writer, reader = daemon.connect(), daemon.connect(is_read_only=True)
    writer.define(test_domain(NAME))
    with pytest.raises(HypervisorError, match="read only access"):
        reader.start(NAME)
    assert state(reader) is DomainState.SHUTOFF
    writer.close()
    reader.close()


def test_the_end_of_the_daemon_is_told_and_calls_say_lost(daemon: PrivateLibvirtd) -> None:
    connection, lost = daemon.connect(), threading.Event()
    connection.watch(lambda _event: None, lost.set)
    daemon.stop()
    assert lost.wait(20)
    with pytest.raises(HypervisorLostError):
        connection.domains()
    assert not connection.is_alive()
    connection.close()


def test_a_connection_closed_during_a_call_closes_after_it(daemon: PrivateLibvirtd) -> None:
    connection = daemon.connect()
    answers: list[str] = []

    def call() -> None:
        connection.ping()
        frozen.wait()
        connection.ping()
        answers.append("pong")

    frozen = threading.Event()
    caller, closer = threading.Thread(target=call), threading.Thread(target=connection.close)
    caller.start()
    wait_for(lambda: len(connection._lines._lines) == 2)
    daemon.freeze()
    frozen.set()
    wait_for(lambda: connection._lines._lines[1].callers == 1)
    closer.start()
    wait_for(lambda: connection._lines._is_closed)
    daemon.thaw()
    caller.join(20)
    closer.join(20)
    assert answers == ["pong"]


def test_a_host_tells_how_long_its_cpus_were_idle(host: Connection) -> None:
    first, second = host.host_cpu(), host.host_cpu()
    assert first is not None and second is not None
    assert first.cpus >= 1 and second.idle_s >= first.idle_s >= 0 and second.read_at_s > first.read_at_s


EFFECTS = {
    "start": (),
    "shutdown": (),
    "shutdown_by_agent": (),
    "destroy": (),
    "undefine": (),
    "suspend": (),
    "resume": (),
    "save": (),
    "save_to": ("/nowhere/memory",),
    "set_link": (True,),
    "set_time": (1.0,),
    "set_metadata": ({"group": "web"},),
    "set_quota": (0.5,),
}


@pytest.mark.parametrize("is_running", [False, True])
@pytest.mark.parametrize("verb", EFFECTS)
def test_who_was_defined_under_the_name_of_one_that_is_gone_is_never_changed(
    host: Connection, verb: str, is_running: bool
) -> None:
    old = host.define(test_domain(NAME))
    host.undefine(NAME)
    host.define(test_domain(NAME))
    if is_running:
        host.start(NAME)
    before = host.domains()
    with pytest.raises(DomainGoneError, match=f"{NAME}.*Domain not found"):
        getattr(Connection, verb)(host, NAME, old, *EFFECTS[verb])
    assert host.domains() == before


def test_every_change_of_a_domain_is_told_whom_it_means_by_uuid() -> None:
    """What takes a name alone looks, makes a domain, or sweeps probes; libvirt refuses a name that another UUID has."""
    alone = {"facts", "addresses", "disk_troubles", "definition", "agent_host_name", "restore", "sweep"}
    by_name = {
        name: list(inspect.signature(method).parameters)
        for name, method in vars(Connection).items()
        if not name.startswith("_") and inspect.isfunction(method) and "network" not in name
    }
    named = {name for name, parameters in by_name.items() if parameters[1:2] == ["name"]}
    assert {name for name in named if by_name[name][2:3] == ["uuid"]} == set(EFFECTS)
    assert {name for name in named if by_name[name][2:3] != ["uuid"]} == alone


def test_one_that_its_owner_has_renamed_is_left_alone(host: Connection) -> None:
    uuid = host.define(test_domain(NAME))
    with pytest.raises(HypervisorError, match=f"refused to start hvtest-0001: it is named {NAME} now"):
        Connection.start(host, "hvtest-0001", uuid)
    assert state(host) is DomainState.SHUTOFF


def test_nothing_is_defined_over_one_of_another_uuid(host: Connection) -> None:
    uuid = host.define(test_domain(NAME))
    with pytest.raises(HypervisorError, match="already"):
        host.define(test_domain(NAME))
    assert [facts.uuid for facts in host.domains()] == [uuid]


def test_only_a_probe_is_swept_by_its_name(host: Connection) -> None:
    host.define(test_domain(NAME))
    host.start(NAME)
    with pytest.raises(HypervisorError, match="refused to sweep"):
        host.sweep(NAME)
    assert state(host) is DomainState.RUNNING
