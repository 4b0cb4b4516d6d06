"""The bus over TCP: keys let in, everything else is refused, told and survived."""

import shutil
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from common import bus as bus_module
from common.bus import Bus, Received, ask
from common.clock import SystemClock
from common.config import ALL_SERVICES, SERVICES, Config, Group, System
from common.config import Bus as BusTable
from common.errors import BusError, ConfigError
from common.keys import add_client, make_keys
from common.messages import DesiredCapacity, Reply, Request
from common.messaging.curve import Keys
from tests.faults.proof import Proof
from tests.ports import free_port

CLOCK = SystemClock()
PATIENCE_S = 15.0


def config_with(tmp_path: Path, keys_dir: Path | str, port: int, address: str = "127.0.0.1") -> Config:
    """Return a configuration in which the decider is at ``port``; the others are not used."""
    endpoints = {name: f"tcp://{address}:{1000 + 2 * at}" for at, name in enumerate(SERVICES)}
    endpoints["decider"] = f"tcp://{address}:{port}"  # the next one is for requests
    return Config(
        system=System(run_dir=str(tmp_path / "run"), state_dir=str(tmp_path)),
        bus=BusTable(transport="tcp", endpoints=endpoints, keys_dir=str(keys_dir)),
        groups={"web": Group(prefix="web-")},
    )


def client_keys(tmp_path: Path, service_keys: Path, client: str) -> Path:
    """Return the keys directory of another machine: its own secret, and the public key of the services."""
    directory = tmp_path / f"machine-{client}"
    directory.mkdir(mode=0o700)
    (directory / "client.key_secret").write_bytes((service_keys / f"{client}.key_secret").read_bytes())
    (directory / "client.key_secret").chmod(0o600)
    copy_public(service_keys, directory)
    return directory


def copy_public(service_keys: Path, directory: Path) -> None:
    """Give another machine the public keys of the services."""
    (directory / "services").mkdir(exist_ok=True)
    for path in (service_keys / "services").glob("*.key"):
        (directory / "services" / path.name).write_bytes(path.read_bytes())


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return make_keys(tmp_path / "keys").directory


@pytest.fixture
def opened() -> Iterator[list[Bus]]:
    buses: list[Bus] = []
    yield buses
    for bus in buses:
        bus.close()


def open_publisher(config: Config, opened: list[Bus]) -> Bus:
    pub = Bus.open(config, "decider", CLOCK)
    opened.append(pub)
    pub.publish(DesiredCapacity(group="web", generation=1, desired=2, minimum=1, maximum=3))
    return pub


def open_subscriber(config: Config, opened: list[Bus]) -> Bus:
    sub = Bus.open(config, "operator", CLOCK, publishes=False)
    opened.append(sub)
    sub.subscribe("decider", "capacity.desired")
    return sub


def hear(sub: Bus, pub: Bus, within_s: float = PATIENCE_S) -> list[Received]:
    heard: list[Received] = []
    deadline_s = CLOCK.monotonic_s() + within_s
    while not heard and CLOCK.monotonic_s() < deadline_s:
        pub.receive(0.01)
        heard += sub.receive(0.02).messages
    return heard


def until(condition: Callable[[], bool], pub: Bus, sub: Bus | None = None, within_s: float = PATIENCE_S) -> None:
    deadline_s = CLOCK.monotonic_s() + within_s
    while not condition():
        assert CLOCK.monotonic_s() < deadline_s, f"in vain; publisher {pub.counters}, subscriber {sub and sub.counters}"
        pub.receive(0.02)
        if sub is not None:
            sub.receive(0.02)


def heard_beside(sub: Bus, pub: Bus, witness: Bus, has_tried_again: Callable[[], bool]) -> list[Received]:
    """Return what ``sub`` hears until ``witness`` has heard a message, and ``sub`` has tried once more since.

    The message stands, so whoever is let in hears it.
    """
    pub.publish(DesiredCapacity(group="web", generation=2, desired=3, minimum=1, maximum=3))
    heard: list[Received] = []
    seen: list[Received] = []

    def is_over() -> bool:
        seen.extend(witness.receive(0.01).messages)
        heard.extend(sub.receive(0.01).messages)
        return [each.body.desired for each in seen if isinstance(each.body, DesiredCapacity)][-1:] == [3]

    until(is_over, pub)
    until(lambda: is_over() and has_tried_again(), pub)
    return heard


def refused_again(pub: Bus) -> Callable[[], bool]:
    """Return what tells whether somebody was refused twice from now on: the first may have knocked before."""
    before = pub.counters["refused"]
    return lambda: pub.counters["refused"] >= before + 2


def reconnected_again(sub: Bus) -> Callable[[], bool]:
    before = sub.counters["reconnects"]
    return lambda: sub.counters["reconnects"] >= before + 2


def test_the_right_key_is_let_in(tmp_path: Path, keys: Path, opened: list[Bus]) -> None:
    port = free_port(2)
    pub = open_publisher(config_with(tmp_path, keys, port), opened)
    sub = open_subscriber(config_with(tmp_path, client_keys(tmp_path, keys, "client"), port), opened)
    assert len(hear(sub, pub)) == 1
    assert pub.counters["refused"] == 0


@pytest.mark.fault(23)
def test_a_key_that_nobody_authorized_is_refused_and_told(
    tmp_path: Path, keys: Path, opened: list[Bus], capsys: pytest.CaptureFixture[str], row: Proof
) -> None:
    port = free_port(2)
    pub = open_publisher(config_with(tmp_path, keys, port), opened)
    add_client(keys, "stranger")
    (keys / "authorized" / "stranger.key").unlink()
    sub = open_subscriber(config_with(tmp_path, client_keys(tmp_path, keys, "stranger"), port), opened)
    until(lambda: pub.counters["refused"] >= 2 and sub.counters["reconnects"] >= 1, pub, sub)
    witness = open_subscriber(config_with(tmp_path, client_keys(tmp_path, keys, "client"), port), opened)
    assert heard_beside(sub, pub, witness, refused_again(pub)) == []
    told = [line for line in capsys.readouterr().out.splitlines() if "peer-refused" in line]
    assert len(told) == 1
    assert "127.0.0.1" in told[0]
    assert "not authorized" in told[0]
    row.held("a subscriber whose key nobody authorized: hears nothing; its address and the reason are logged")


@pytest.mark.fault(25)
def test_a_key_authorized_late_is_let_in_within_5_s(tmp_path: Path, keys: Path, opened: list[Bus], row: Proof) -> None:
    port = free_port(2)
    pub = open_publisher(config_with(tmp_path, keys, port), opened)
    add_client(keys, "late")
    authorization = keys / "authorized" / "late.key"
    public = authorization.read_bytes()
    authorization.unlink()
    sub = open_subscriber(config_with(tmp_path, client_keys(tmp_path, keys, "late"), port), opened)
    until(lambda: pub.counters["refused"] >= 1, pub, sub)
    begun_s = CLOCK.monotonic_s()
    authorization.write_bytes(public)
    assert len(hear(sub, pub)) == 1
    row.measured("authorised late, connected after", CLOCK.monotonic_s() - begun_s, at_most=5.0)


@pytest.mark.fault(23)
def test_the_wrong_key_of_the_service_is_refused_and_told(
    tmp_path: Path, keys: Path, opened: list[Bus], capsys: pytest.CaptureFixture[str], row: Proof
) -> None:
    port = free_port(2)
    pub = open_publisher(config_with(tmp_path, keys, port), opened)
    other = make_keys(tmp_path / "other").directory
    (other / "client.key_secret").write_bytes((keys / "client.key_secret").read_bytes())
    sub = open_subscriber(config_with(tmp_path, other, port), opened)
    witness = open_subscriber(config_with(tmp_path, client_keys(tmp_path, keys, "client"), port), opened)
    assert heard_beside(sub, pub, witness, refused_again(pub)) == []
    assert "peer-refused" in capsys.readouterr().out
    row.held("a subscriber that takes the service for another one: hears nothing; logged")


@pytest.mark.fault(23)
def test_no_key_is_refused_and_told(
    tmp_path: Path, keys: Path, opened: list[Bus], capsys: pytest.CaptureFixture[str], row: Proof
) -> None:
    port = free_port(2)
    pub = open_publisher(config_with(tmp_path, keys, port), opened)
    sub = open_subscriber(config_with(tmp_path, "", port), opened)
    witness = open_subscriber(config_with(tmp_path, client_keys(tmp_path, keys, "client"), port), opened)
    assert heard_beside(sub, pub, witness, refused_again(pub)) == []
    assert "peer-refused" in capsys.readouterr().out
    row.held("a subscriber without a key: hears nothing; logged")


@pytest.mark.fault(23)
def test_a_service_without_keys_is_not_believed(
    tmp_path: Path, keys: Path, opened: list[Bus], capsys: pytest.CaptureFixture[str], row: Proof
) -> None:
    port = free_port(2)
    pub = open_publisher(config_with(tmp_path, "", port), opened)
    sub = open_subscriber(config_with(tmp_path, client_keys(tmp_path, keys, "client"), port), opened)
    witness = open_subscriber(config_with(tmp_path, "", port), opened)
    assert heard_beside(sub, pub, witness, reconnected_again(sub)) == []
    assert any("connection-cut" in line and "decider" in line for line in capsys.readouterr().out.splitlines())
    row.held("a publisher without the service's key: not believed; logged")


@pytest.mark.fault(24)
def test_nobody_gets_in_where_the_authenticator_is_dead(
    tmp_path: Path, keys: Path, opened: list[Bus], row: Proof
) -> None:
    port = free_port(2)
    pub = open_publisher(config_with(tmp_path, keys, port), opened)
    guard = pub._guard
    assert guard is not None
    pub._poller.unregister(guard._zap)
    guard._zap.close(linger=0)
    sub = open_subscriber(config_with(tmp_path, client_keys(tmp_path, keys, "client"), port), opened)
    heard: list[Received] = []
    tried = reconnected_again(sub)

    def has_tried() -> bool:
        heard.extend(sub.receive(0.02).messages)
        return tried()

    until(has_tried, pub)
    assert heard == []
    row.held("nobody is let in, not with the right key either")
    pub.close()
    again = open_publisher(config_with(tmp_path, keys, port), opened)
    assert len(hear(sub, again)) == 1, "where it answers, the same key gets in"


@pytest.mark.fault(21)
def test_garbage_at_the_port_harms_nothing(tmp_path: Path, keys: Path, opened: list[Bus], row: Proof) -> None:
    port = free_port(2)
    pub = open_publisher(config_with(tmp_path, keys, port), opened)
    for noise in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 500, b""):
        with socket.create_connection(("127.0.0.1", port), timeout=2) as knock:
            knock.sendall(noise)
            pub.receive(0.05)
    sub = open_subscriber(config_with(tmp_path, client_keys(tmp_path, keys, "client"), port), opened)
    assert len(hear(sub, pub)) == 1
    row.held("garbage at the port of a publisher: whoever comes next is served")


def test_requests_need_the_key_too(tmp_path: Path, keys: Path, opened: list[Bus]) -> None:
    port = free_port(2)
    pub = open_publisher(config_with(tmp_path, keys, port), opened)
    is_over = threading.Event()

    def loop() -> None:
        while not is_over.is_set():
            for pending in pub.receive(0.2).requests:
                pending.reply(Reply(status="applied"))

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        right = config_with(tmp_path, client_keys(tmp_path, keys, "operator"), port)
        assert ask(right, "decider", Request(verb="pause"), PATIENCE_S).status == "applied"
        add_client(keys, "stranger")
        (keys / "authorized" / "stranger.key").unlink()
        wrong = config_with(tmp_path, client_keys(tmp_path, keys, "stranger"), port)
        with pytest.raises(BusError, match="refuses this machine: the key is not authorized"):
            ask(wrong, "decider", Request(verb="pause"), 3.0)
        with pytest.raises(BusError, match=r"decider .*does not answer|refuses"):
            ask(config_with(tmp_path, "", port), "decider", Request(verb="pause"), 1.0)
    finally:
        is_over.set()
        thread.join()
    assert pub.counters["requests"] == 1


@pytest.mark.fault(25)
def test_a_key_that_is_replaced_on_both_sides_is_connected_within_5_s_and_nobody_starts_anew(
    tmp_path: Path, keys: Path, opened: list[Bus], row: Proof
) -> None:
    port = free_port(2)
    pub = open_publisher(config_with(tmp_path, keys, port), opened)
    machine = client_keys(tmp_path, keys, "client")
    sub = open_subscriber(config_with(tmp_path, machine, port), opened)
    assert len(hear(sub, pub)) == 1
    (keys / "authorized" / "client.key").unlink()
    until(lambda: pub.counters["refused"] >= 1, pub, sub)  # its session was cut, and it came again
    add_client(keys, "client-of-now")
    (machine / "client.key_secret").write_bytes((keys / "client-of-now.key_secret").read_bytes())
    begun_s = CLOCK.monotonic_s()
    pub.publish(DesiredCapacity(group="web", generation=2, desired=3, minimum=1, maximum=3))
    assert len(hear(sub, pub)) == 1
    row.measured("its own key replaced, connected after", CLOCK.monotonic_s() - begun_s, at_most=5.0)


@pytest.mark.fault(25)
def test_rotated_keys_are_picked_up_without_a_restart_of_the_listener(
    tmp_path: Path, keys: Path, opened: list[Bus], row: Proof
) -> None:
    port = free_port(2)
    pub = open_publisher(config_with(tmp_path, keys, port), opened)
    machine = client_keys(tmp_path, keys, "client")
    sub = open_subscriber(config_with(tmp_path, machine, port), opened)
    assert len(hear(sub, pub)) == 1
    pub.close()
    fresh = make_keys(tmp_path / "fresh").directory
    again = open_publisher(config_with(tmp_path, fresh, port), opened)
    until(lambda: sub.counters["reconnects"] >= 1, again, sub)
    (machine / "client.key_secret").write_bytes((fresh / "client.key_secret").read_bytes())
    copy_public(fresh, machine)
    begun_s = CLOCK.monotonic_s()
    assert len(hear(sub, again)) == 1
    row.measured("every key rotated, the listener connected after", CLOCK.monotonic_s() - begun_s, at_most=5.0)


def test_keys_that_vanish_for_a_moment_do_not_end_the_listener(
    tmp_path: Path, keys: Path, opened: list[Bus], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port(2)
    pub = open_publisher(config_with(tmp_path, keys, port), opened)
    (keys / "authorized" / "client.key").rename(tmp_path / "aside.key")
    machine = client_keys(tmp_path, keys, "client")
    sub = open_subscriber(config_with(tmp_path, machine, port), opened)
    until(lambda: pub.counters["refused"] >= 1, pub, sub)
    (machine / "services" / "decider.key").rename(machine / "aside")
    (tmp_path / "aside.key").rename(keys / "authorized" / "client.key")
    other = machine.with_name("machine-witness")
    shutil.copytree(machine, other)
    (other / "aside").rename(other / "services" / "decider.key")
    witness = open_subscriber(config_with(tmp_path, other, port), opened)
    misses: list[str] = []
    read = bus_module.keys_of

    def watched(*args: Any) -> Keys | None:
        try:
            return read(*args)
        except ConfigError as error:
            misses.append(str(error))
            raise

    monkeypatch.setattr(bus_module, "keys_of", watched)
    assert heard_beside(sub, pub, witness, lambda: bool(misses)) == []
    (machine / "aside").rename(machine / "services" / "decider.key")
    assert len(hear(sub, pub)) == 1


def test_open_to_other_machines_without_keys_is_refused_at_start(tmp_path: Path) -> None:
    for address in ("0.0.0.0", "192.0.2.1", "[::]"):
        with pytest.raises(ConfigError, match="open to other machines and needs keys"):
            Bus.open(config_with(tmp_path, "", 7001, address), "decider", CLOCK)


def test_loopback_without_keys_is_allowed(tmp_path: Path, opened: list[Bus]) -> None:
    for address in ("127.0.0.1", "[::1]"):
        port = free_port(2)
        config = config_with(tmp_path, "", port, address)
        pub, sub = open_publisher(config, opened), open_subscriber(config, opened)
        assert len(hear(sub, pub)) == 1
        pub.close()


def test_a_port_in_use_is_a_clear_error(tmp_path: Path) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        with pytest.raises(BusError, match=rf"cannot bind tcp://127.0.0.1:{port}: Address already in use"):
            Bus.open(config_with(tmp_path, "", port), "decider", CLOCK)


def test_missing_damaged_and_open_keys_are_refused_at_start(tmp_path: Path, keys: Path) -> None:
    config = config_with(tmp_path, keys, free_port(2))
    secret = keys / "services" / "decider.key_secret"
    secret.chmod(0o640)
    with pytest.raises(ConfigError, match=r"must be readable by its owner alone.*0640"):
        Bus.open(config, "decider", CLOCK)
    secret.chmod(0o600)
    secret.write_bytes(b"too short")
    with pytest.raises(ConfigError, match="must hold one key of 40 Z85 characters"):
        Bus.open(config, "decider", CLOCK)
    secret.unlink()
    with pytest.raises(ConfigError, match=r"cannot be read: No such file.*autoscaler keys"):
        Bus.open(config, "decider", CLOCK)


def test_made_keys_have_the_right_modes_whatever_the_umask(tmp_path: Path) -> None:
    made = make_keys(tmp_path / "deep" / "keys")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in made.files if path.name.endswith("secret")}
    assert modes == {f"{name}.key_secret": 0o600 for name in (*ALL_SERVICES, "operator", "client")}
    assert stat.S_IMODE(made.directory.stat().st_mode) == 0o700
    assert all(path.exists() for path in made.files)


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    directory = make_keys(tmp_path / "keys").directory
    before = {path: path.read_bytes() for path in directory.rglob("*.key*")}
    with pytest.raises(ConfigError, match="not empty; keys are never overwritten"):
        make_keys(directory)
    with pytest.raises(ConfigError, match="exists already"):
        add_client(directory, "client")
    with pytest.raises(ConfigError, match="must match"):
        add_client(directory, "../x")
    with pytest.raises(ConfigError, match="holds no keys"):
        add_client(tmp_path / "nowhere", "laptop")
    assert {path: path.read_bytes() for path in directory.rglob("*.key*")} == before


def test_key_pairs_are_what_zeromq_takes() -> None:
    public, secret = bus_module.new_key_pair()
    assert zmq.curve_public(secret) == public
