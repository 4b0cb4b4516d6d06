"""A graph on another machine: the bus across a network namespace, with the right key, a wrong one and none."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.bus import Bus
from common.clock import SystemClock
from common.config import SERVICES, Config
from common.config_file import load
from common.keys import add_client, make_keys
from common.messages import DesiredCapacity, Reply
from tests.integration.plugged import cabled
from tests.integration.test_bus_roles import old_directory

CLOCK = SystemClock()
ROOT = Path(__file__).parents[2]
HERE, THERE = "10.213.77.1", "10.213.77.2"
LISTEN = """
import sys
from pathlib import Path
from common.bus import Bus
from common.clock import SystemClock
from common.config_file import load

bus = Bus.open(load(Path(sys.argv[1]))[0], "operator", SystemClock(), publishes=False)
bus.subscribe("decider", "capacity.desired")
messages = bus.receive(float(sys.argv[2])).messages
print(messages[0].body.desired if messages else "silence", bus.counters["reconnects"])
bus.close()
"""
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and iproute2 to make a network namespace"
)


@pytest.fixture
def machine() -> Iterator[str]:
    """Another machine, one cable away."""
    name = f"asbus{os.getpid()}"
    near = f"asb{os.getpid()}"[:15]
    with cabled(
        name,
        near,
        f"ip link add {near} type veth peer name far netns {name}",
        f"ip addr add {HERE}/24 dev {near}",
        f"ip link set {near} up",
        f"ip -n {name} addr add {THERE}/24 dev far",
        f"ip -n {name} link set far up",
    ):
        yield name


def write_config(directory: Path, keys_dir: Path | str) -> Path:
    directory.mkdir(exist_ok=True)
    endpoints = ", ".join(f'{name} = "tcp://{HERE}:{17000 + 2 * at}"' for at, name in enumerate(SERVICES))
    path = directory / "autoscaler.toml"
    path.write_text(
        f'[system]\nrun_dir = "{directory}/run"\nstate_dir = "{directory}"\n'
        f'[bus]\ntransport = "tcp"\nkeys_dir = "{keys_dir}"\nendpoints = {{ {endpoints} }}\n'
        '[groups.web]\nprefix = "web-"\n'
    )
    return path


def listen_from(machine: str, config_path: Path, wait_s: float, pub: Bus) -> list[str]:
    """Return what a process on the other machine hears within ``wait_s``, and how often it connected anew."""
    process = subprocess.Popen(
        ["ip", "netns", "exec", machine, sys.executable, "-c", LISTEN, str(config_path), str(wait_s)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None:
        pub.receive(0.02)
    assert process.stdout is not None
    return [line for line in process.stdout.read().splitlines() if "connection-cut" not in line][-1].split()


ORDER = """
import sys
from pathlib import Path
from common.bus import ask
from common.config_file import load
from common.messages import Request

reply = ask(load(Path(sys.argv[1]))[0], "decider", Request(verb="scale", args={"to": 9}, by="root"), float(sys.argv[2]))
print(f"{reply.status}: {reply.reason}")
"""


def order_from(machine: str, config_path: Path, wait_s: float, bus: Bus) -> str:
    """Return the answer that a process on the other machine gets to an order."""
    process = subprocess.Popen(
        ["ip", "netns", "exec", machine, sys.executable, "-c", ORDER, str(config_path), str(wait_s)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None:
        for pending in bus.receive(0.02).requests:
            pending.reply(Reply(status="applied", reason=f"by {pending.request.by}"))
    assert process.stdout is not None
    return process.stdout.read().strip()


def test_from_another_machine_a_listening_key_listens_and_an_ordering_key_orders(machine: str, tmp_path: Path) -> None:
    """With a directory of before, given roles in place while the service runs; the other machine is left as it was."""
    keys = old_directory(tmp_path)
    bus = Bus.open(load(write_config(tmp_path / "near", keys))[0], "decider", CLOCK)
    try:
        bus.publish(DesiredCapacity(group="web", generation=1, desired=3, minimum=1, maximum=4))
        desktop = write_config(tmp_path / "desktop", machine_keys(tmp_path / "desktop-keys", keys, "client"))
        assert order_from(machine, desktop, 10.0, bus) == "applied: by key client (root)"
        make_keys(keys)
        add_client(keys, "laptop", may_order=True)
        assert listen_from(machine, desktop, 10.0, bus)[0] == "3"
        lacks = "key client may listen, but not order; one that orders: autoscaler keys DIR --order NAME"
        assert order_from(machine, desktop, 10.0, bus) == f"refused: {lacks}"
        laptop = write_config(tmp_path / "laptop", machine_keys(tmp_path / "laptop-keys", keys, "laptop"))
        assert order_from(machine, laptop, 10.0, bus) == "applied: by key laptop (root)"
    finally:
        bus.close()


def machine_keys(directory: Path, keys: Path, client: str) -> Path:
    directory.mkdir(mode=0o700)
    for name in ("service.key", "services/decider.key"):
        if (keys / name).exists():
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).write_bytes((keys / name).read_bytes())
    secret = directory / "client.key_secret"
    secret.write_bytes((keys / f"{client}.key_secret").read_bytes())
    secret.chmod(0o600)
    return directory


def test_only_the_right_key_hears_anything_on_another_machine(
    machine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = make_keys(tmp_path / "keys").directory
    add_client(keys, "stranger")
    (keys / "authorized" / "stranger.key").unlink()
    config: Config = load(write_config(tmp_path / "near", keys))[0]
    pub = Bus.open(config, "decider", CLOCK)
    try:
        pub.publish(DesiredCapacity(group="web", generation=1, desired=3, minimum=1, maximum=4))
        right = write_config(tmp_path / "right", machine_keys(tmp_path / "right-keys", keys, "client"))
        assert listen_from(machine, right, 10.0, pub) == ["3", "0"]
        assert pub.counters["refused"] == 0
        wrong = write_config(tmp_path / "wrong", machine_keys(tmp_path / "wrong-keys", keys, "stranger"))
        heard, reconnects = listen_from(machine, wrong, 5.0, pub)
        assert heard == "silence"
        assert int(reconnects) >= 1
        assert listen_from(machine, write_config(tmp_path / "none", ""), 4.0, pub)[0] == "silence"
    finally:
        pub.close()
    told = [line for line in capsys.readouterr().out.splitlines() if "peer-refused" in line]
    assert any("not authorized" in line for line in told), told
    assert any("do not share encryption" in line for line in told), told
    assert any(THERE in line for line in told), "who hangs up at once may be gone before it is asked for its address"
