"""Who may listen and who may order: by the user on Unix sockets, by the key on TCP; a key that goes is cut."""

import os
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

from cli import shared_dirs
from common.bus import Bus, ask, new_key_pair
from common.clock import SystemClock
from common.config import Config, Group, System
from common.errors import BusError, ConfigError
from common.keys import add_client, make_keys, split
from common.messages import DesiredCapacity, Reply, Request
from common.messaging.requests import decode_reply, encode_request
from tests.integration.test_bus_tcp import client_keys, config_with
from tests.integration.test_shared_dirs import begun_as
from tests.ports import free_port

CLOCK = SystemClock()
PATIENCE_S = 10.0
UID, GID = 10001, 10002
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="acts as several users")


@contextmanager
def answering(bus: Bus) -> Iterator[list[Request]]:
    """Have a service answer every request with who asked, in a thread of its own; give what it was asked."""
    asked: list[Request] = []
    is_over = threading.Event()

    def loop() -> None:
        while not is_over.is_set():
            for pending in bus.receive(0.1).requests:
                asked.append(pending.request)
                pending.reply(Reply(status="applied", reason=pending.request.by))

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield asked
    finally:
        is_over.set()
        thread.join()


def said(config: Config, verb: str = "scale", by: str = "me") -> str:
    """Return status and reason of the answer, or why there was none."""
    try:
        reply = ask(config, "decider", Request(verb=verb, by=by), PATIENCE_S)
    except (BusError, ConfigError) as error:
        return str(error)
    return f"{reply.status}: {reply.reason}"


def old_directory(tmp_path: Path) -> Path:
    """Return a directory of keys as ``autoscaler keys`` of 0.1.0 made it: one pair for all services, and a client's."""
    directory = tmp_path / "old-keys"
    (directory / "authorized").mkdir(parents=True)
    directory.chmod(0o700)
    for name in ("service", "client"):
        public, secret = new_key_pair()
        (directory / f"{name}.key").write_bytes(public + b"\n")
        (directory / f"{name}.key_secret").write_bytes(secret + b"\n")
        (directory / f"{name}.key_secret").chmod(0o600)
        (directory / "authorized" / f"{name}.key").write_bytes(public + b"\n")
    return directory


def old_machine(tmp_path: Path, old: Path) -> Path:
    """Return the keys of another machine as its operator copied them then."""
    directory = tmp_path / "old-machine"
    directory.mkdir(mode=0o700)
    for name in ("client.key_secret", "service.key"):
        (directory / name).write_bytes((old / name).read_bytes())
        (directory / name).chmod(0o600)
    return directory


@contextmanager
def opened(config: Config) -> Iterator[Bus]:
    bus = Bus.open(config, "decider", CLOCK)
    try:
        yield bus
    finally:
        bus.close()


def hears(config: Config, pub: Bus, within_s: float = PATIENCE_S) -> bool:
    """Return whether whoever has this configuration hears the decider, which is not attended to by another thread."""
    sub = Bus.open(config, "operator", CLOCK, publishes=False)
    try:
        sub.subscribe("decider", "capacity.desired")
        end_s = CLOCK.monotonic_s() + within_s
        while CLOCK.monotonic_s() < end_s:
            pub.receive(0.02)
            if sub.receive(0.02).messages:
                return True
        return False
    finally:
        sub.close()


def desired(number: int) -> DesiredCapacity:
    return DesiredCapacity(group="web", generation=number, desired=2, minimum=1, maximum=3)


# --- Unix sockets ------------------------------------------------------------------------------------------------


@pytest.fixture
def shared() -> Iterator[Config]:
    """Return a configuration whose directories root shares with a group."""
    with tempfile.TemporaryDirectory(prefix="ase-", dir="/var/tmp") as home:
        Path(home).chmod(0o711)
        system = System(run_dir=f"{home}/run", state_dir=f"{home}/state")
        shared_dirs.share(system, GID)
        yield Config(system=system, groups={"web": Group(prefix="web-")})


@contextmanager
def a_service_of(uid: int, config: Config) -> Iterator[None]:
    """Run a decider that answers, as this user, until the end."""
    stop = Path(config.system.run_dir).parent / "stop"

    def serve() -> str:
        bus = Bus.open(config, "decider", CLOCK)
        bus.publish(desired(1))
        with answering(bus):
            while not stop.exists():
                threading.Event().wait(0.05)
        bus.close()
        return ""

    end = begun_as(uid, GID, serve)
    sockets = [config.system.run_path / name for name in ("decider.sock", "control-decider.sock")]
    deadline_s = CLOCK.monotonic_s() + PATIENCE_S
    while not all(path.exists() for path in sockets) and CLOCK.monotonic_s() < deadline_s:
        threading.Event().wait(0.02)
    try:
        yield
    finally:
        stop.touch()
        end()


@needs_root
def test_the_owner_and_root_order_and_the_group_listens_and_asks(shared: Config) -> None:
    with a_service_of(UID, shared):
        as_user: Callable[[int, str], str] = lambda uid, verb: begun_as(uid, GID, lambda: said(shared, verb))()  # noqa: E731
        assert as_user(UID, "scale") == f"applied: user {UID} (me)"
        assert said(shared, by="alice") == "applied: root (alice)"
        refusal = f"refused: user 10007 may listen, but not order: orders are taken from root and user {UID}"
        assert as_user(10007, "scale") == refusal
        assert as_user(10007, "explain") == "applied: user 10007 (me)"

        def listen() -> str:
            sub = Bus.open(shared, "operator", CLOCK, publishes=False)
            sub.subscribe("decider", "capacity.desired")
            heard = sub.receive(PATIENCE_S).messages
            sub.close()
            return heard[0].topic if heard else "silence"

        assert begun_as(10007, GID, listen)() == "capacity.desired.web"


@needs_root
def test_the_group_does_not_order_a_service_of_roots(shared: Config) -> None:
    with a_service_of(0, shared):
        assert begun_as(UID, GID, lambda: said(shared, by="root"))() == (
            f"refused: user {UID} may listen, but not order: orders are taken from root"
        )
        assert said(shared, by="root") == "applied: root"


# --- keys --------------------------------------------------------------------------------------------------------


def test_a_clients_key_listens_and_one_that_orders_orders_under_its_own_name(tmp_path: Path) -> None:
    keys, port = make_keys(tmp_path / "keys").directory, free_port(2)
    add_client(keys, "laptop", may_order=True)
    near = config_with(tmp_path, keys, port)
    desktop = config_with(tmp_path, client_keys(tmp_path, keys, "client"), port)
    laptop = config_with(tmp_path, client_keys(tmp_path, keys, "laptop"), port)
    with opened(near) as bus:
        bus.publish(desired(1))
        assert hears(desktop, bus) and hears(laptop, bus)
        with answering(bus) as asked:
            lacks = "key client may listen, but not order; one that orders: autoscaler keys DIR --order NAME"
            assert said(desktop, by="root") == f"refused: {lacks}"
            assert said(desktop, "explain") == "applied: key client (me)"
            assert said(laptop, by="root") == "applied: key laptop (root)"
            assert said(near) == "applied: key operator (me)"
            assert [request.verb for request in asked] == ["explain", "scale", "scale"]
            (keys / "orders" / "laptop.key").rename(keys / "authorized" / "laptop.key")
            assert said(laptop).startswith("refused: key laptop may listen")


def test_a_service_cannot_speak_or_answer_for_another(tmp_path: Path) -> None:
    """The holder of one service's pair stands at another's address."""
    keys, port = make_keys(tmp_path / "keys").directory, free_port(2)
    stolen = tmp_path / "stolen"
    (stolen / "services").mkdir(parents=True, mode=0o700)
    (stolen / "authorized").mkdir()
    for path in (keys / "authorized").iterdir():
        (stolen / "authorized" / path.name).write_bytes(path.read_bytes())
    (stolen / "services" / "decider.key_secret").write_bytes((keys / "services" / "plotter.key_secret").read_bytes())
    (stolen / "services" / "decider.key_secret").chmod(0o600)
    desktop = config_with(tmp_path, client_keys(tmp_path, keys, "client"), port)
    with opened(config_with(tmp_path, stolen, port)) as impostor:
        impostor.publish(desired(1))
        assert not hears(desktop, impostor, within_s=1.5)
    with opened(config_with(tmp_path, keys, port)) as decider:
        decider.publish(desired(1))
        assert hears(desktop, decider)


def test_a_services_key_does_not_order(tmp_path: Path) -> None:
    keys, port = make_keys(tmp_path / "keys").directory, free_port(2)
    exporter = tmp_path / "exporter"
    exporter.mkdir(mode=0o700)
    (exporter / "services").mkdir()
    (exporter / "services" / "decider.key").write_bytes((keys / "services" / "decider.key").read_bytes())
    (exporter / "client.key_secret").write_bytes((keys / "services" / "exporter.key_secret").read_bytes())
    (exporter / "client.key_secret").chmod(0o600)
    with opened(config_with(tmp_path, keys, port)) as bus, answering(bus):
        assert said(config_with(tmp_path, exporter, port)).startswith("refused: key exporter may listen")


def test_a_removed_keys_session_is_cut_within_5_s_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, port = make_keys(tmp_path / "keys").directory, free_port(2)
    add_client(keys, "leaver")
    with opened(config_with(tmp_path, keys, port)) as pub:
        subs = {}
        for name in ("client", "leaver"):
            config = config_with(tmp_path, client_keys(tmp_path, keys, name), port)
            subs[name] = Bus.open(config, "operator", CLOCK, publishes=False)
            subs[name].subscribe("decider", "capacity.desired")
        try:
            number, last = 0, dict.fromkeys(subs, 0)

            def talk(until: Callable[[], bool], within_s: float) -> None:
                nonlocal number
                end_s = CLOCK.monotonic_s() + within_s
                while not until() and CLOCK.monotonic_s() < end_s:
                    number += 1
                    pub.publish(desired(number))
                    pub.receive(0.02)
                    for name, sub in subs.items():
                        for message in sub.receive(0.02).messages:
                            assert isinstance(message.body, DesiredCapacity)
                            last[name] = message.body.generation

            talk(lambda: min(last.values()) > 0, PATIENCE_S)
            (keys / "authorized" / "leaver.key").unlink()
            talk(lambda: False, 5.0)
            cut_at = last["leaver"]
            talk(lambda: False, 2.0)
            assert last["leaver"] == cut_at < number - 20
            assert last["client"] >= number - 2
            assert subs["client"].counters["reconnects"] == 0
            assert pub.counters["refused"] >= 1, "it came again, and was refused"
        finally:
            for sub in subs.values():
                sub.close()
    assert "not authorized" in capsys.readouterr().out


def test_a_request_on_a_connection_from_before_is_judged_by_the_keys_of_now(tmp_path: Path) -> None:
    keys, port = make_keys(tmp_path / "keys").directory, free_port(2)
    add_client(keys, "leaver", may_order=True)
    context = zmq.Context()
    door = context.socket(zmq.REQ)
    door.curve_serverkey = (keys / "services" / "decider.key").read_bytes().strip()
    door.curve_publickey = (keys / "leaver.key").read_bytes().strip()
    door.curve_secretkey = (keys / "leaver.key_secret").read_bytes().strip()
    door.connect(f"tcp://127.0.0.1:{port + 1}")

    def order() -> Reply:
        door.send(encode_request(Request(verb="scale")))
        assert door.poll(PATIENCE_S * 1000)
        return decode_reply(door.recv())

    try:
        with opened(config_with(tmp_path, keys, port)) as bus:
            with answering(bus):
                assert order().reason == "key leaver"
            (keys / "orders" / "leaver.key").rename(keys / "authorized" / "leaver.key")
            with answering(bus) as asked:
                assert order().reason.startswith("key leaver may listen, but not order")
                assert asked == []
    finally:
        context.destroy(linger=0)


# --- directories of before ---------------------------------------------------------------------------------------


def test_a_directory_of_before_serves_as_it_did_and_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, port = old_directory(tmp_path), free_port(2)
    far = config_with(tmp_path, old_machine(tmp_path, old), port)
    with opened(config_with(tmp_path, old, port)) as bus:
        bus.publish(desired(1))
        assert hears(far, bus)
        with answering(bus):
            assert said(far) == "applied: key client (me)"
    assert f"every authorized key may order; run: autoscaler keys {old}" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="every authorized key may order still; give it roles first"):
        add_client(old, "laptop", may_order=True)


def test_given_roles_in_place_its_old_keys_listen_and_no_machine_is_touched(tmp_path: Path) -> None:
    old, port = old_directory(tmp_path), free_port(2)
    far = config_with(tmp_path, old_machine(tmp_path, old), port)
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    with opened(config_with(tmp_path, old, port)) as bus:  # it runs already
        bus.publish(desired(1))
        made = make_keys(old)
        assert {path.name for path in made.files} == {"operator.key_secret", "operator.key"}
        assert {path: path.read_bytes() for path in before} == before
        assert hears(far, bus)
        with answering(bus):
            assert said(far).startswith("refused: key client may listen, but not order")
            assert said(config_with(tmp_path, old, port)) == "applied: key operator (me)"
            add_client(old, "laptop", may_order=True)
            (tmp_path / "laptop").mkdir()
            laptop = old_machine(tmp_path / "laptop", old)
            (laptop / "client.key_secret").write_bytes((old / "laptop.key_secret").read_bytes())
            assert said(config_with(tmp_path, laptop, port)) == "applied: key laptop (me)"


def test_split_gives_each_service_its_own_pair_and_takes_the_shared_one(tmp_path: Path) -> None:
    old, port = old_directory(tmp_path), free_port(2)
    with pytest.raises(ConfigError, match="no pair that services share, with roles"):
        split(old)
    make_keys(old)
    far_keys = old_machine(tmp_path, old)
    made = split(old)
    assert "restart the services" in made.note
    assert not list(old.rglob("service.key*"))
    secrets = list((old / "services").glob("*.key_secret"))
    assert len({path.read_bytes() for path in secrets}) == len(secrets) == 8
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets} == {0o600}
    far = config_with(tmp_path, far_keys, port)
    with opened(config_with(tmp_path, old, port)) as bus:
        bus.publish(desired(1))
        assert not hears(far, bus, within_s=1.5), "it still asks for the shared key"
        (far_keys / "service.key").unlink()
        (far_keys / "services").mkdir()
        (far_keys / "services" / "decider.key").write_bytes((old / "services" / "decider.key").read_bytes())
        assert hears(far, bus)
        with answering(bus):
            assert said(config_with(tmp_path, old, port)) == "applied: key operator (me)"
