"""The whole installation in containers, on a Docker engine that the test starts, from a base made without a registry.

The tests of this module share one installation and run in the order in which they stand.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.services import ALL_SERVICES, SERVICES
from tests.e2e.engine import Engine
from tests.e2e.steady import Steady
from tests.e2e.world import ROOT, World, now_s, wait_until

BASE = "libvirt-autoscaler-base:test"
IMAGE = "libvirt-autoscaler:test"
CONTAINERS = {*ALL_SERVICES, "haproxy", "libvirt-reader"}
OF_ROOT = {"actuator", "libvirt-reader"}
BOOT_S = 120.0  # generous: guests boot in software emulation beside everything else on two cores
MAX_IMAGE_BYTES = 300e6
WHEELS = ROOT / "container" / "wheels"

READ_AND_WRITE = """
import libvirt
libvirt.registerErrorHandler(lambda *_: None, None)
print("reads", libvirt.openReadOnly("qemu:///system").getHostname())
for uri in ("qemu:///system", "qemu:///system?socket=/var/run/libvirt/libvirt-sock-ro"):
    try:
        libvirt.open(uri).networkDefineXML("<network><name>ase-intruder</name></network>")
        print("writes", uri)
    except libvirt.libvirtError as error:
        print("refused", error)
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """Return a running engine; nothing of it is left afterwards."""
    for program in ("dockerd", "docker", "docker-compose"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is missing: scripts/bootstrap.sh dev installs it")
    engine = Engine()
    yield engine
    engine.stop()
    assert engine.left() == []


@pytest.fixture(scope="module")
def offline(engine: Engine) -> Iterator[None]:
    """Make what a site without registry and package index has: a base image, and the packages as wheels."""
    had_wheels = any(WHEELS.glob("*.whl"))
    environ = {**os.environ, **engine.environ}
    wheels = subprocess.Popen([ROOT / "scripts" / "image-wheels.sh"])
    try:
        subprocess.run([ROOT / "container" / "base.sh", BASE], env=environ, check=True)
        assert wheels.wait(600) == 0
        yield
    finally:
        wheels.wait(600)
        if not had_wheels:
            subprocess.run([ROOT / "scripts" / "image-wheels.sh", "--remove"], check=True)


@pytest.fixture(scope="module")
def world(engine: Engine, offline: None, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Return a running installation, with its image in the state directory, which containers see."""
    home = engine.home.with_name(engine.home.name + "-world")
    home.mkdir(mode=0o711)
    state_images = home / "state" / "images"
    shutil.copytree(images, state_images)
    world = World(home, state_images, "asec1", 90)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in engine.environ.items():
            patch.setenv(name, value)
        patch.setenv("COMPOSE_PROJECT_NAME", "ase-compose")
        patch.setenv("LIBVIRT_AUTOSCALER_BASE", BASE)
        patch.setenv("LIBVIRT_AUTOSCALER_IMAGE", IMAGE)
        patch.setenv("LIBVIRT_AUTOSCALER_HEALTH_INTERVAL", "15s")
        try:
            began_s = now_s()
            said = world.autoscaler("up", "--runtime", "compose", timeout_s=900).stdout
            print(f"\n{said}\nup: {now_s() - began_s:.1f} s in all")
            yield world
        finally:
            logs = {
                name: engine.docker("logs", "--tail", "5", found["Id"]) for name, found in engine.containers().items()
            }
            print(json.dumps(logs, indent=1))
            if world.run_dir.exists():
                world.autoscaler("down", "--everything")
            shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def high_load(world: World) -> Iterator[None]:
    """Drive the endpoint as ``make load LEVEL=high`` does."""
    command = [sys.executable, "-m", "cli", "--config", str(world.config), "load", "--level", "high", "--json"]
    load = subprocess.Popen([*command, "--seconds", "300"], cwd=ROOT, stdout=subprocess.DEVNULL)
    yield
    load.send_signal(signal.SIGTERM)
    load.wait(timeout=60)


def ready(world: World) -> int:
    """Return how many domains are in rotation."""
    return sum(domain["phase"] == "ready" for domain in world.group()["domains"])


def are_alive(world: World) -> bool:
    """Return whether every service that always runs is heard on the bus."""
    return {entry["name"] for entry in world.status()["services"] if entry["alive"]} >= set(SERVICES)


def answers(world: World) -> bool:
    """Return whether a domain answers at the endpoint."""
    try:
        return world.get("/healthz")[0] == 200
    except OSError:
        return False


def test_up_ends_with_an_endpoint_that_answers(world: World) -> None:
    assert world.get("/compute?n=10") == (200, str(2**10 % 1021), "asec1-0000")


def test_the_image_is_small(engine: Engine, world: World) -> None:
    size_bytes = int(engine.docker("image", "inspect", "--format", "{{.Size}}", IMAGE))
    print(f"\nimage: {size_bytes / 1e6:.0f} MB")
    assert size_bytes < MAX_IMAGE_BYTES


def test_no_container_may_do_more_than_its_work(engine: Engine, world: World) -> None:
    containers = engine.containers()
    assert containers.keys() == CONTAINERS
    for name, found in containers.items():
        host = found["HostConfig"]
        assert (host["CapDrop"], host["CapAdd"], host["Privileged"]) == (["ALL"], None, False), name
        assert host["ReadonlyRootfs"] and "no-new-privileges:true" in host["SecurityOpt"], name
        assert host["RestartPolicy"]["Name"] == "unless-stopped", name
        assert found["Config"]["User"] == ("0:0" if name in OF_ROOT else "10001:10001"), name
        sources = {mount["Source"] for mount in found["Mounts"]}
        assert any(path in sources for path in ("/var/run/libvirt", "/run/libvirt")) == (name in OF_ROOT), name


def test_the_monitor_reads_from_libvirt_and_cannot_write(engine: Engine, world: World) -> None:
    monitor = engine.containers()["monitor"]["Id"]
    said = engine.docker("exec", monitor, "python3", "-c", READ_AND_WRITE)
    assert [line.split()[0] for line in said.splitlines()] == ["reads", "refused", "refused"], said
    seen = engine.docker("exec", monitor, "sh", "-c", "find /run/libvirt/ -type s 2>/dev/null || true")
    assert seen.split() == ["/run/libvirt/libvirt-sock-ro"]


@pytest.mark.parametrize("name", sorted(CONTAINERS - OF_ROOT - {"monitor"}))
def test_the_others_have_no_way_to_libvirt(engine: Engine, world: World, name: str) -> None:
    said = engine.docker("exec", engine.containers()[name]["Id"], "sh", "-c", "ls -A /var/run/libvirt", check=False)
    assert "No such file" in said


def test_every_container_proves_that_its_service_works(engine: Engine, world: World) -> None:
    def unhealthy() -> dict[str, str]:
        states = {name: found["State"]["Health"]["Status"] for name, found in engine.containers().items()}
        return {name: state for name, state in states.items() if state != "healthy"}

    wait_until(lambda: not unhealthy(), BOOT_S, "healthy containers")


def test_a_service_that_hangs_is_not_healthy(engine: Engine, world: World) -> None:
    recorder = engine.containers()["recorder"]
    os.kill(recorder["State"]["Pid"], signal.SIGSTOP)
    try:
        said = engine.docker("exec", recorder["Id"], "python3", "-m", "cli.healthcheck", "recorder", check=False)
    finally:
        os.kill(recorder["State"]["Pid"], signal.SIGCONT)
    assert "recorder said nothing for 6 s" in said


def test_high_load_brings_a_second_domain(world: World, high_load: None) -> None:
    wait_until(lambda: ready(world) >= 2, 2 * BOOT_S, "two domains in rotation", every_s=1.0)


def test_killed_containers_come_back_and_no_request_is_lost(engine: Engine, world: World) -> None:
    victims = ("monitor", "decider", "actuator", "balancer", "libvirt-reader")
    before = engine.containers()
    wait_until(lambda: all(answers(world) for _ in range(10)), BOOT_S, "the end of the overload's queue")
    with Steady(world, rate=10) as steady:
        for name in victims:
            os.kill(before[name]["State"]["Pid"], signal.SIGKILL)

        def are_back() -> bool:
            found = engine.containers()
            return all(
                found[name]["State"]["Running"] and found[name]["RestartCount"] > before[name]["RestartCount"]
                for name in victims
            )

        wait_until(are_back, BOOT_S, "the killed containers to run again")
        wait_until(lambda: are_alive(world), BOOT_S, "their services on the bus", every_s=1.0)
        wait_until(
            lambda: world.group()["cpu_ratio"] is not None, BOOT_S, "samples through the new reader", every_s=1.0
        )
    print(f"\n{steady.sent} GETs, {len(steady.failures)} failed; slowest {steady.slowest_s:.2f} s")
    assert not steady.failures, steady.failures[:5]


def test_a_killed_haproxy_is_back_with_its_slots(engine: Engine, world: World) -> None:
    killed = engine.containers()["haproxy"]
    os.kill(killed["State"]["Pid"], signal.SIGKILL)

    def is_back() -> bool:
        return bool(engine.containers()["haproxy"]["RestartCount"] > killed["RestartCount"])

    wait_until(is_back, BOOT_S, "HAProxy's container to run again")  # what is asked before may be the dying one
    wait_until(lambda: answers(world), BOOT_S, "HAProxy to serve again")


def test_a_changed_configuration_reaches_the_services_and_loses_no_request(engine: Engine, world: World) -> None:
    before = engine.containers()
    text = world.config.read_text(encoding="utf-8")
    with Steady(world, rate=10) as steady:
        world.config.write_text(text.replace("max = 4", "max = 3"), encoding="utf-8")
        said = world.autoscaler("up", "--runtime", "compose").stdout
        wait_until(lambda: are_alive(world), BOOT_S, "the services on the bus again", every_s=1.0)
    assert "renewed with the changed configuration" in said
    assert "as it is" in said  # the image was named and is there: it is not built anew
    after = engine.containers()
    assert after["haproxy"]["State"]["StartedAt"] == before["haproxy"]["State"]["StartedAt"]
    assert all(after[name]["Id"] != before[name]["Id"] for name in ALL_SERVICES)
    assert not steady.failures, steady.failures[:5]


def test_after_a_boot_that_emptied_run_the_containers_come_back_by_themselves(engine: Engine, world: World) -> None:
    engine.boot(forget=world.run_dir)
    wait_until(lambda: are_alive(world), BOOT_S, "the services on the bus", every_s=1.0)
    wait_until(lambda: answers(world), BOOT_S, "an answer")


def test_native_and_containers_do_not_mix(world: World) -> None:
    done = world.autoscaler("up", check=False)
    assert done.returncode == 1
    assert "it runs in containers; first: make down" in done.stderr


def test_down_leaves_nothing(engine: Engine, world: World) -> None:
    world.autoscaler("down", "--everything")
    assert engine.containers() == {}
    assert engine.docker("volume", "ls", "-q") == ""
    assert engine.docker("images", "-q", IMAGE) == ""
    assert (world.domains(), world.networks()) == ([], [])
    assert not world.run_dir.exists()
    assert not world.state_dir.exists()
