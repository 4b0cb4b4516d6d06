"""``up`` and ``down``: from a prepared machine to an endpoint that answers, and back to nothing.

Both can be repeated at any time: each step looks first and does only what is missing.
"""

import os
import shlex
import shutil
import socket
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from cli import haproxy_process, shared_dirs
from cli.console import Steps
from cli.endpoints import wait_for_endpoints
from cli.interrupting import refuse_interrupting
from cli.kept_in_service import refuse_silencing
from cli.kvm_device import CONSEQUENCE, why_closed
from cli.left_over import left_over_lines, refuse_renamed
from cli.libvirt_daemon import LOCAL_URI, ensure_libvirt, start_again, stop_libvirt
from cli.program import ISOLATED, module
from cli.status import endpoint_url
from cli.supervision import (
    has_lost_files,
    is_changed,
    is_supervised,
    refuse_other_tree,
    start_services,
    stop_services,
)
from cli.turn import turn
from cli.unreached import alive
from common import files
from common.clock import Clock
from common.config import Config, System
from common.config_file import load
from common.endpoint import is_clash, split_endpoint
from common.errors import AutoscalerError
from common.state_dir import LOG_DIR, MODE

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "autoscaler.toml"


def up(config_path: Path, clock: Clock, *, is_forced: bool = False) -> None:
    """Start everything; return when every group that is to have a domain now answers at its endpoint.

    Unless ``is_forced``, a changed file is refused that would interrupt service or with which those that serve now
    would not, and so is what runs from another directory with this program.

    Raises:
        AutoscalerError: a step failed; the message says which, and what to do.
    """
    steps = Steps(clock, 7)
    with steps.step(f"configuration {config_path}"):
        config, digest = load(config_path)
        require_root()
        steps.say(f"{len(config.groups)} group(s): {', '.join(config.groups)}")
    with turn(config.system, "up", clock):
        _start(config, config_path, digest, clock, steps, is_forced=is_forced)
    with steps.step("first domains"):
        wait_for_endpoints(config, clock, steps, lambda: is_supervised(config.system))
    print_what_next(config, config_path)


def _start(config: Config, config_path: Path, digest: str, clock: Clock, steps: Steps, *, is_forced: bool) -> None:
    shared_dirs.refuse_units(config.system)
    if shared_dirs.are_shared(config.system):
        raise AutoscalerError("it runs in containers; first: make down")
    refuse_other_tree(config.system, is_forced=is_forced)
    refuse_interrupting(config, is_forced=is_forced)
    prepare_directories(config.system)
    with steps.step("libvirt"):
        steps.say(prepare_libvirt(config, clock, steps))
        refuse_renamed(config)
    with steps.step("guest image"):
        steps.say(ensure_image(config, steps))
        steps.note("the actuator looks at the images")
        check_images(config, config_path)
    with steps.step("acceleration"):
        steps.say(prove_acceleration(config, clock, steps))
    with steps.step("HAProxy"):
        if has_lost_files(config.system) and is_supervised(config.system):
            stopped = stop_services(config.system, clock, steps)
            steps.say(f"{config.system.run_dir} was gone: what ran with it is started anew ({stopped})")
        if is_changed(config.system, digest):
            steps.note("those that serve are asked as HAProxy would")
            refuse_silencing(config, clock, is_forced=is_forced)
        steps.say(prepare_haproxy(config, config_path))
    with steps.step("services"):
        steps.say(start_services(config, config_path, digest, clock, steps))


def down(config_path: Path, clock: Clock, *, everything: bool, discard_saved: bool = False) -> None:
    """Stop the services and the domains they created; with ``everything`` remove all that we ever made."""
    steps = Steps(clock, 4 if everything else 3)
    config, _digest = load(config_path)
    require_root()
    shared_dirs.refuse_units(config.system)
    with steps.step("services and HAProxy"):
        steps.say(stop_services(config.system, clock, steps))
        refuse_alive(config_path)
    with steps.step("domains"):
        steps.note("libvirt is to answer")
        if started := start_again(config.hosts.values(), config.system, clock):
            steps.say(started)
        steps.say(remove_domains(config, config_path, steps, everything=everything, discard_saved=discard_saved))
    with steps.step("libvirt"):
        steps.say(stop_libvirt(config.system))
    if everything:
        with steps.step("files"):
            remove_files(config.system)


def refuse_alive(config_path: Path) -> None:
    """Refuse to remove domains while an actuator runs with this file, whoever keeps it: it would make new ones.

    Raises:
        AutoscalerError: one does.
    """
    found = [service for service in alive(str(config_path)) if service.startswith("actuator ")]
    if found:
        raise AutoscalerError(f"no domain was removed: {', '.join(found)} still runs; first stop what keeps it running")


def prepare_libvirt(config: Config, clock: Clock, steps: Steps) -> str:
    """Return how the hosts' libvirt was found or brought to answer, and what will make the local one slow."""
    found = []
    for host in config.hosts.values():
        steps.note(f"libvirt at {host.uri} is to answer")
        found.append(ensure_libvirt(host, config.system, clock))
    is_local = any(host.uri == LOCAL_URI for host in config.hosts.values())
    closed = why_closed() if is_local else ""
    return "; ".join([*found, *([f"{closed}; {CONSEQUENCE}"] if closed else [])])


def require_root() -> None:
    """Refuse to go on without the rights that libvirt's system socket and networks need."""
    if os.geteuid() != 0:
        raise AutoscalerError("this needs root (libvirt's system socket, networks); run it with sudo")


def prepare_directories(system: System) -> None:
    """Make the run and state directories with the modes that they need; those that several users share stay."""
    if shared_dirs.are_shared(system) or shared_dirs.belong_to_units(system.run_path):
        return
    files.ensure_dir(system.run_path, 0o700)
    files.ensure_dir(system.state_path, MODE)
    files.set_mode(system.state_path, MODE)
    files.ensure_dir(system.state_path / LOG_DIR, 0o700)


def ensure_image(config: Config, steps: Steps) -> str:
    """Build the demo guest's image where it is needed: a group boots it, or it is to prove KVM for other images.

    Raises:
        AutoscalerError: a group boots it, and it was not built.
    """
    templates = [group for group in config.groups.values() if group.kind == "template"]
    if any(not (group.image.directory or group.image.disk) for group in templates):
        return build_image(config, steps)
    if not any(config.hosts[host].accel == "auto" for group in templates for host in group.hosts):
        return "no group boots the demo guest, and no KVM is to be proven with it"
    try:
        return f"{build_image(config, steps)}, to prove KVM"
    except AutoscalerError:
        return "not built, so KVM cannot be proven: domains run in software emulation (or set accel = 'kvm')"


def build_image(config: Config, steps: Steps) -> str:
    """Build the demo guest's image if it is not up to date; return where it is.

    Raises:
        AutoscalerError: it was not built.
    """
    output = config.system.state_path / "images"
    command = ["/usr/bin/python3", ISOLATED, str(ROOT / "guest_image" / "build.py"), "--output", str(output)]
    if steps.run(command) != 0:
        raise AutoscalerError("the guest image was not built; see the lines above")
    return str(output)


def check_images(config: Config, config_path: Path) -> None:
    """Have the actuator look at the images that an operator named, and what goes with them.

    Raises:
        AutoscalerError: one cannot be used; the message says which, and why.
    """
    images = [group.image for group in config.groups.values()]
    if not any(image.directory or image.disk or image.xml for image in images):
        return
    command = [*module("services.actuator"), "--config", str(config_path), "--check-images"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    if done.returncode != 0:
        raise AutoscalerError(done.stderr.strip() or "the groups' images could not be looked at")


def prove_acceleration(config: Config, clock: Clock, steps: Steps) -> str:
    """Return, for each host, which acceleration its domains use and why; ``steps`` shows what is waited for."""
    from common.acceleration import choose_for_host

    state, found = config.system.state_path, []
    for name, host in config.hosts.items():
        accel = choose_for_host(name, host, state / "images", state, clock, partial(_wait_for_host, steps, name))
        found.append(f"{name}: {accel.text}")
    return "; ".join(found)


def _wait_for_host(steps: Steps, host: str, what: str) -> None:
    steps.wait_for(f"{host}: {what}")


def prepare_haproxy(config: Config, config_path: Path) -> str:
    """Write HAProxy's configuration and have HAProxy check it.

    Raises:
        AutoscalerError: an endpoint is taken by another program, or HAProxy refuses the configuration.
    """
    check_addresses_are_free(config, held_addresses(config.system))
    command = [*module("services.balancer"), "--config", str(config_path), "--write-config"]
    written = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    if written.returncode != 0:
        raise AutoscalerError(written.stderr.strip() or "HAProxy's configuration was not written")
    checked = subprocess.run(
        ["haproxy", "-c", "-q", "-f", str(config.system.run_path / "haproxy.cfg")],
        check=False,
        capture_output=True,
        text=True,
    )
    if checked.returncode != 0:
        raise AutoscalerError(f"HAProxy refuses its configuration: {checked.stderr.strip()}")
    return ", ".join(group.endpoint for group in config.groups.values())


def held_addresses(system: System) -> list[str]:
    """Return the addresses that our own HAProxy holds, none while it does not run."""
    path = system.run_path / "haproxy.cfg"
    if not (is_supervised(system) or haproxy_process.serves(system)) or not path.is_file():
        return []
    words = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    return [line[1] for line in words if line[:1] == ["bind"]]


def check_addresses_are_free(config: Config, held: Sequence[str] = ()) -> None:
    """Refuse an address of HAProxy's that another program holds or that this machine does not have.

    Args:
        config: names the addresses.
        held: those that our own HAProxy has now; what clashes with one of them is not looked at.
    """
    wanted = {f"groups.{name}.endpoint": group.endpoint for name, group in config.groups.items()}
    if config.metrics.haproxy_listen:
        wanted["metrics.haproxy_listen"] = config.metrics.haproxy_listen
    for key, address in wanted.items():
        if not any(is_clash(address, ours) for ours in held):
            check_address_is_free(key, address)


def check_address_is_free(key: str, address: str) -> None:
    """Refuse the address that stands under ``key`` if another program holds it or this machine does not have it."""
    host, port = split_endpoint(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("" if host == "*" else host, port))
        except OSError as error:
            raise AutoscalerError(
                f"{key}: {address} cannot be used: {error.strerror}; stop what holds it, or choose another ADDRESS:PORT"
            ) from error


def remove_domains(config: Config, config_path: Path, steps: Steps, *, everything: bool, discard_saved: bool) -> str:
    """Have the actuator remove the domains it created, and with ``everything`` the network and image copies.

    A domain whose memory somebody has saved stays, unless ``discard_saved``.

    The decider forgets how many it wanted: the next start begins anew.
    """
    flags = ["--remove-everything" if everything else "--remove-domains"]
    flags += ["--discard-saved"] if discard_saved else []
    allowed = [group.stop_timeout_s for group in config.groups.values() if group.kind == "template"]
    patience = f", for at most {max(allowed):g} s on each host" if allowed else ""
    steps.note(f"the domains shut down{patience}")
    for service, what in (("balancer", ["--forget-slots"]), ("decider", ["--forget-capacity"]), ("actuator", flags)):
        command = [*module(f"services.{service}"), "--config", str(config_path), *what]
        if steps.run(command, cwd=ROOT) != 0:
            raise AutoscalerError("not every domain could be removed; see the lines above")
    return "none of ours is left"


def remove_files(system: System) -> None:
    """Remove what we put into the run and state directories, and these where nothing else is left in them."""
    for name in ("images", "recording", "log", "console", "learned"):
        shutil.rmtree(system.state_path / name, ignore_errors=True)
    for pattern in ("*.json", "graph.*", "*.state", "*.run", "*.new", ".acceleration.json.*", "acceleration*.lock"):
        for path in system.state_path.glob(pattern):
            path.unlink(missing_ok=True)
    shutil.rmtree(system.run_path, ignore_errors=True)
    if system.state_path.is_dir() and not any(system.state_path.iterdir()) and not system.state_path.is_mount():
        system.state_path.rmdir()


def print_what_next(config: Config, config_path: Path, stop: str = "make down") -> None:
    """Print the endpoints, and what an operator does from here with this file."""
    command, graph, load_it = ".venv/bin/autoscaler", "make plot", "make load LEVEL=low|mid|high"
    if config_path.resolve() != SHIPPED:
        command = f".venv/bin/autoscaler --config {shlex.quote(str(config_path))}"
        graph, load_it, stop = f"{command} plot", f"{command} load --level low|mid|high", f"{command} down"
    print()
    for name, group in config.groups.items():
        print(f"  endpoint  {endpoint_url(group)}   (group {name})")
    print(f"  status    {command} status --watch")
    print(f"  graph     {graph}")
    print(f"  load      {load_it}")
    print(f"  stop      {stop}")
    for line in left_over_lines(config):
        print(f"  left over {line}; {stop} removes them")
