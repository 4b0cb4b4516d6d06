"""A group made from a whole Debian on a disk image: boot loader, systemd, cloud-init. Three domains boot at once.

Then a template of it is saved, and more domains are cloned. In the end each is shut down in one of the ways there are,
and none has its power cut.
The image is built once (under a minute) and kept beside the demo guest's; see ``tests/disk_image.py``.
"""

import hashlib
import http.client
import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import libvirt
import pytest

from common.clock import SystemClock
from common.errors import HypervisorError
from tests.disk_image import BAKED_MACHINE_ID
from tests.e2e.power import Power
from tests.e2e.whole import look
from tests.e2e.world import World, now_s, wait_until
from tests.named import Named

NAME = "ase8"
BOOT_S = 900.0  # a minute and a half where nothing else runs
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBzK8yJ0bHl0aGlzaXNhdGVzdGtleW9ubHkAAAAA test@autoscaler"
LINGERS_S = 25
OFF_S = LINGERS_S + 120.0  # seconds where nothing else runs
USER_DATA = f"""\
#cloud-config
write_files:
- path: /etc/greeting
  content: hello from user-data
- path: /etc/systemd/system/lingers.service
  content: |
    [Service]
    Type=oneshot
    RemainAfterExit=yes
    ExecStart=/bin/true
    ExecStop=/bin/sleep {LINGERS_S}
- path: /srv/www/cgi-bin/linger
  permissions: "0755"
  content: |
    #!/bin/sh
    systemctl start lingers && printf 'Content-Type: text/plain\\n\\nlingers at its end\\n'
"""
MORE_XML = """\
<domain>
  <description>with more</description>
  <devices><watchdog model='i6300esb' action='none'/></devices>
</domain>
"""


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World], disk: Path) -> Iterator[World]:
    """Return an installation whose group is made from the image; it is not up yet."""
    world = make_world(NAME, 8, group_extra=f"boot_timeout_s = {BOOT_S}")
    directory = world.config.parent
    (directory / "user-data").write_text(USER_DATA, encoding="utf-8")
    (directory / "more.xml").write_text(MORE_XML, encoding="utf-8")
    text = world.config.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith(("directory", "memory_mib", "cpu_quota"))]
    image = [
        "[groups.web.image]",
        f'disk = "{disk}"',
        f'user_data = "{directory}/user-data"',
        f'xml = "{directory}/more.xml"',
        f'ssh_keys = ["{KEY}"]',
        "memory_mib = 512",
    ]
    text = "\n".join(lines).replace("[groups.web.image]", "\n".join(image)).replace("min = 1", "min = 3")
    text = text.replace("max = 4", "max = 6") + '[groups.web.warm]\nstart = "clone"\n'
    world.config.write_text(text, encoding="utf-8")
    yield world


@pytest.fixture(scope="module")
def told(world: World, disk: Path) -> Iterator[dict[str, dict[str, str]]]:
    """Bring three domains up, and return by name what each of them tells about itself."""
    before, owner = sha256(disk), (disk.stat().st_uid, disk.stat().st_gid, disk.stat().st_mode)
    world.autoscaler("up", timeout_s=BOOT_S + 60)
    begin = now_s()
    domains = wait_until(lambda: ready(world), BOOT_S, "three domains in rotation", every_s=1.0)
    print(f"\nthree domains in rotation {now_s() - begin:.0f} s after the first")
    yield {domain["name"]: identity(domain["address"]) for domain in domains}
    assert sha256(disk) == before, "the base image was written to"
    assert (disk.stat().st_uid, disk.stat().st_gid, disk.stat().st_mode) == owner


def test_up_names_what_is_wrong_with_an_image_before_anything_runs(world: World, disk: Path) -> None:
    text = world.config.read_text(encoding="utf-8")
    try:
        world.config.write_text(text.replace(str(disk), "/nowhere/debian.raw"), encoding="utf-8")
        done = world.autoscaler("up", check=False)
    finally:
        world.config.write_text(text, encoding="utf-8")
    assert done.returncode == 1
    assert "groups.web.image" in done.stderr and "/nowhere" in done.stderr, done.stderr
    assert world.domains() == []


def test_domains_of_one_image_share_nothing_that_tells_them_apart(told: dict[str, dict[str, str]]) -> None:
    assert sorted(told) == [f"{NAME}-000{number}" for number in range(3)]
    for what in ("hostname", "machine-id", "mac", "address", "host-key"):
        values = {name: facts[what] for name, facts in told.items()}
        assert len(set(values.values())) == 3, f"{what}: {values}"
    assert {name: facts["hostname"] for name, facts in told.items()} == {name: name for name in told}
    assert BAKED_MACHINE_ID not in {facts["machine-id"] for facts in told.values()}


def test_image_boots_from_its_disk_and_gets_what_the_group_says(told: dict[str, dict[str, str]]) -> None:
    for facts in told.values():
        assert facts["root-device"] == "/dev/vda1"
        assert facts["greeting"] == "hello from user-data"
        assert facts["authorized"] == "1"
        assert facts["left-over-keys"] == "0"


def test_address_in_the_guest_is_that_of_the_slot(told: dict[str, dict[str, str]], world: World) -> None:
    shown = {domain["name"]: f"{domain['address']}/24" for domain in look(world)["groups"][0]["domains"]}
    assert {name: facts["address"] for name, facts in told.items()} == shown


def test_requests_at_the_endpoint_reach_the_guests(told: dict[str, dict[str, str]], world: World) -> None:
    names = {world.get("/cgi-bin/identity")[1].partition("\n")[0].removeprefix("hostname ") for _ in range(12)}
    assert len(names) > 1 and names <= set(told)


def test_guest_agent_tells_each_domains_name(told: dict[str, dict[str, str]]) -> None:
    connection = Named.open("qemu:///system", is_read_only=False, may_touch=lambda _name: False)
    try:
        for name in told:
            answer = wait_until(lambda name=name: connection.agent_host_name(name, 5.0), 60, f"the agent of {name}")
            assert answer == name
    finally:
        connection.close()


def test_a_clock_that_stood_still_is_set_through_the_agent(told: dict[str, dict[str, str]]) -> None:
    name = min(told)
    connection = Named.open("qemu:///system", is_read_only=False, may_touch=lambda _name: False)
    raw = libvirt.open("qemu:///system")
    try:
        wait_until(lambda: connection.agent_host_name(name, 5.0), 60, f"the agent of {name}")
        guest = raw.lookupByName(name)
        guest.agentSetResponseTimeout(30, 0)
        guest.setTime({"seconds": int(SystemClock().epoch_s()) - 3600, "nseconds": 0}, 0)
        assert guest.getTime()["seconds"] < SystemClock().epoch_s() - 3000
        assert connection.set_time(name, 30.0)
        assert abs(guest.getTime()["seconds"] - SystemClock().epoch_s()) < 30
    finally:
        raw.close()
        connection.close()


@pytest.fixture(scope="module")
def cloned(told: dict[str, dict[str, str]], world: World) -> dict[str, dict[str, str]]:
    """Wait for a snapshot, clone two more, and return what each told when it first answered, and for good."""
    begin = now_s()
    wait_until(lambda: snapshots(world), BOOT_S, "a snapshot of the booted image", every_s=1.0)
    print(f"\nsnapshot after {now_s() - begin:.0f} s: {snapshots(world)[0].stat().st_size / 2**20:.0f} MiB")
    world.autoscaler("pause")  # from now on only orders make or remove somebody
    first = FirstAnswers([f"192.168.168.{10 + slot}" for slot in range(20)])
    begin = now_s()
    world.autoscaler("scale", "5")
    wait_until(lambda: len(first.told) == 5, 120, "two more to answer", every_s=0.05)
    print(f"two clones answered {now_s() - begin:.1f} s after the order")
    first.stop()
    domains = wait_until(lambda: ready(world, 5), 60, "five domains in rotation")
    tiers = {domain["name"]: domain["tier"] for domain in domains if domain["name"] not in told}
    assert tiers == {f"{NAME}-0003": "clone", f"{NAME}-0004": "clone"}
    return {domain["name"]: first.told[domain["address"]] for domain in domains if domain["name"] not in told}


def test_clones_of_a_booted_image_are_others_from_their_first_answer_on(
    told: dict[str, dict[str, str]], cloned: dict[str, dict[str, str]], world: World
) -> None:
    everybody = {**told, **cloned}
    for what in ("hostname", "machine-id", "mac", "address", "random"):
        values = {name: facts[what] for name, facts in everybody.items()}
        assert len(set(values.values())) == 5, f"{what}: {values}"
    shown = {d["name"]: f"{d['address']}/24" for d in look(world)["groups"][0]["domains"]}
    for name, facts in cloned.items():
        assert (facts["hostname"], facts["address"]) == (name, shown[name])
        assert float(facts["asked"]) - 0.5 < float(facts["epoch"]) < float(facts["answered"]) + 0.5, facts
        assert facts["greeting"] == "hello from user-data"


def test_clones_make_host_keys_of_their_own(
    told: dict[str, dict[str, str]], cloned: dict[str, dict[str, str]], world: World
) -> None:
    addresses = [d["address"] for d in look(world)["groups"][0]["domains"] if d["name"] in cloned]
    keys = [wait_until(lambda at=at: identity(at).get("host-key"), 120, f"a host key at {at}") for at in addresses]
    assert len({*keys, *(facts["host-key"] for facts in told.values())}) == 5, keys


def test_no_other_user_reads_memory_disks_or_seeds(cloned: dict[str, dict[str, str]], world: World) -> None:
    kept = [*(world.state_dir / "disks").iterdir(), *snapshots(world)]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in kept}
    assert not [name for name, mode in modes.items() if mode & 0o027], modes


def test_agent_shuts_its_guest_down(cloned: dict[str, dict[str, str]], world: World) -> None:
    name, disks = max(cloned), world.state_dir / "disks"
    assert len(list(disks.iterdir())) == 11, "an overlay and a seed each, and the disk that clones stand on"
    actuator = world.pid("actuator")
    assert actuator is not None
    connection = Named.open("qemu:///system", is_read_only=False, may_touch=lambda each: each == name)
    with Power(f"{NAME}-") as power:
        os.kill(actuator, signal.SIGSTOP)  # it would ask by the power button, and start another one instead
        try:
            world.autoscaler("scale", "4")
            with suppress(HypervisorError):  # on a busy machine it may take longer than libvirt waits
                assert connection.shutdown_by_agent(name, connection.uuid_of(name)), "no agent"
            wait_until(power.ends, OFF_S, f"{name} off")
        finally:
            os.kill(actuator, signal.SIGCONT)
            connection.close()
        wait_until(lambda: len(world.domains()) == 4, 60, "its definition gone")
        assert power.ends() == [(name, "shutdown")]


@dataclass(frozen=True)
class Left:
    """One domain that a scale-in has taken away."""

    name: str
    took_s: float
    ends: list[tuple[str, str]]


@pytest.fixture(scope="module")
def left(cloned: dict[str, dict[str, str]], world: World) -> Left:
    """Remove one domain, while each has a service that is slow to stop, with the time that is given by default."""
    domains = look(world)["groups"][0]["domains"]
    for domain in domains:
        assert asked(domain["address"], "/cgi-bin/linger") == "lingers at its end\n"
    with Power(f"{NAME}-") as power:
        begin = now_s()
        world.autoscaler("scale", "3")
        wait_until(lambda: len(world.domains()) == 3, OFF_S, "one domain less")
        took_s = now_s() - begin
        (gone,) = {domain["name"] for domain in domains} - set(world.domains())
        print(f"\n{gone} left in {took_s:.0f} s, {LINGERS_S} of them for its service")
        return Left(gone, took_s, power.ends())


def test_a_service_that_is_slow_to_stop_is_waited_for(left: Left) -> None:
    assert left.took_s > LINGERS_S
    assert left.ends == [(left.name, "shutdown")]


def test_removed_domains_leave_no_disk_behind(left: Left, world: World) -> None:
    disks = world.state_dir / "disks"
    kept = wait_until(lambda: len(list(disks.iterdir())) == 7 and list(disks.iterdir()), 20, "its disks gone")
    names = {path.name.partition(".")[0] for path in kept}
    assert names == {*world.domains(), f"{NAME}-template"}


def test_down_takes_every_disk_and_the_pool_and_waits_for_slow_services_too(left: Left, world: World) -> None:
    there = world.domains()
    with Power(f"{NAME}-") as power:
        world.autoscaler("down")
        assert sorted(power.ends()) == [(name, "shutdown") for name in there]
    assert world.domains() == []
    kept = [path.name for path in (world.state_dir / "disks").iterdir()]
    assert [name.partition(".")[0] for name in kept] == [f"{NAME}-template"], "what a snapshot needs stays with it"
    world.autoscaler("down", "--everything")
    assert not (world.state_dir / "disks").exists()


class FirstAnswers:
    """Asks addresses all the time, and keeps what each told when it first answered, and between which times."""

    def __init__(self, addresses: list[str]) -> None:
        self.told: dict[str, dict[str, str]] = {}
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(a,), daemon=True) for a in addresses]
        for thread in self._threads:
            thread.start()

    def _ask(self, address: str) -> None:
        while not self._stopping.wait(0.05) and address not in self.told:
            asked_s = SystemClock().epoch_s()
            try:
                facts = identity(address, 0.5)
            except (OSError, http.client.HTTPException):
                continue
            if "hostname" in facts:
                self.told[address] = facts | {"asked": str(asked_s), "answered": str(SystemClock().epoch_s())}

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()


def snapshots(world: World) -> list[Path]:
    """Return the snapshots that clones go on from; each has been proved by a first clone."""
    return list((world.state_dir / "actuator/snapshots").glob("*/*.save"))


def ready(world: World, count: int = 3) -> list[dict[str, str]]:
    """Return the domains once so many are there, all in rotation."""
    group = look(world)["groups"][0]
    return group["domains"] if [d["phase"] for d in group["domains"]] == ["ready"] * count else []


def identity(address: str, connect_s: float = 30.0) -> dict[str, str]:
    """Return what the guest at the address tells about itself."""
    lines = asked(address, "/cgi-bin/identity", connect_s).splitlines()
    return {line.partition(" ")[0]: line.partition(" ")[2] for line in lines}


def asked(address: str, path: str, connect_s: float = 30.0) -> str:
    """Return what the guest at the address answers."""
    connection = http.client.HTTPConnection(address, 8080, timeout=connect_s)
    try:
        connection.connect()
        connection.sock.settimeout(30)
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def sha256(path: Path) -> str:
    """Return the digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
