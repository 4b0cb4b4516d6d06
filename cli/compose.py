"""``up`` and ``down`` with the services in containers: the host is prepared as natively, the rest is compose's.

libvirt, the guest image and the proof of acceleration are the host's business here as there; the steps are those of
``cli.stack``. Compose is whichever the machine has: ``docker compose`` (v2) or ``docker-compose`` (1.29).
"""

import os
import re
import subprocess
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from cli import shared_dirs, stack
from cli.compose_limits import check_configuration
from cli.console import Steps
from cli.endpoints import wait_for_endpoints
from cli.interrupting import refuse_interrupting
from cli.kept_in_service import refuse_silencing
from cli.left_over import refuse_renamed
from cli.libvirt_daemon import start_again, stop_libvirt
from cli.refusals import write_text
from cli.supervision import is_supervised, told_of_end, what_was_cut
from cli.turn import turn
from common.clock import Clock
from common.config import Config, System
from common.config_file import load
from common.errors import AutoscalerError
from common.run_dir import is_locked
from common.services import ALL_SERVICES

DEFAULT_ID = "10001"  # of the containers' user and group; no account needs to have it
MARKER = "up.compose"  # in the run directory: the digest of the configuration that the containers have
TREE = "up.compose.tree"  # there too: the directory that they were started from
WANTS_DOCKER = "install Docker's compose (Debian: apt-get install docker.io docker-compose)"
EXPLANATION_LINES = 15


def up(config_path: Path, clock: Clock, *, is_forced: bool = False) -> None:
    """Start everything in containers; return when every group that is to have a domain now answers.

    Unless ``is_forced``, a changed file is refused with which those that serve now would not.

    Raises:
        AutoscalerError: a step failed; the message says which, and what to do.
    """
    steps = Steps(clock, 7)
    with steps.step(f"configuration {config_path}"):
        config, digest = load(config_path)
        stack.require_root()
        steps.say(f"{len(config.groups)} group(s): {', '.join(config.groups)}")
    with turn(config.system, "up", clock):
        _bring_up(config, config_path, digest, clock, steps, is_forced=is_forced)
    with steps.step("first domains"):
        wait_for_endpoints(config, clock, steps, lambda: shared_dirs.are_shared(config.system))
    stack.print_what_next(config, config_path, stop="make down RUNTIME=compose")


def _bring_up(config: Config, config_path: Path, digest: str, clock: Clock, steps: Steps, *, is_forced: bool) -> None:
    shared_dirs.refuse_units(config.system)
    is_running = shared_dirs.are_shared(config.system)
    if is_supervised(config.system):
        raise AutoscalerError("it runs without containers; first: make down")
    refuse_other_tree(config.system, stack.ROOT)
    check_configuration(config, config_path, stack.ROOT, os.environ)
    refuse_interrupting(config, is_forced=is_forced)
    compose = Compose.found(config, config_path, digest, os.environ)
    with steps.step("libvirt"):
        stack.prepare_directories(config.system)
        steps.say(stack.prepare_libvirt(config, clock, steps))
        refuse_renamed(config)
    with steps.step("guest image"):
        steps.say(stack.ensure_image(config, steps))
        steps.note("the actuator looks at the images")
        stack.check_images(config, config_path)
    with steps.step("acceleration"):
        steps.say(stack.prove_acceleration(config, clock, steps))
    with steps.step("container image"):
        steps.note("the engine builds it")
        steps.say(compose.build())
    with steps.step("containers"):
        if is_running:
            steps.note("those that serve are asked as HAProxy would")
            refuse_silencing(config, clock, is_forced=is_forced)
        steps.note("the engine starts them")
        steps.say(_start(config, compose, digest))


def down(config_path: Path, clock: Clock, *, everything: bool, discard_saved: bool = False) -> None:
    """Stop the containers and remove the domains; with ``everything`` the container image and our files too."""
    steps = Steps(clock, 4 if everything else 3)
    config, digest = load(config_path)
    stack.require_root()
    with steps.step("containers"):
        refuse_other_tree(config.system, stack.ROOT)
        compose = Compose.found(config, config_path, digest, os.environ)
        steps.note(partial(told_of_end, config.system, "the containers end"))
        compose.run("--profile", "window", "down", "--volumes", *(("--rmi", "all") if everything else ()))
        shared_dirs.take_back(config.system)
        for marker in (MARKER, TREE):
            (config.system.run_path / marker).unlink(missing_ok=True)
        steps.say(f"stopped and removed{what_was_cut(config.system)}")
    with steps.step("domains"):
        steps.note("libvirt is to answer")
        if started := start_again(config.hosts.values(), config.system, clock):
            steps.say(started)
        steps.say(stack.remove_domains(config, config_path, steps, everything=everything, discard_saved=discard_saved))
    with steps.step("libvirt"):
        steps.say(stop_libvirt(config.system))
    if everything:
        with steps.step("files"):
            stack.remove_files(config.system)


class Compose:
    """Compose with this installation's variables."""

    def __init__(self, command: list[str], environ: Mapping[str, str]) -> None:
        """Use ``Compose.found``."""
        self._command = command
        self._environ = dict(environ)

    @classmethod
    def found(cls, config: Config, config_path: Path, digest: str, environ: Mapping[str, str]) -> "Compose":
        """Return the compose of this machine.

        Raises:
            AutoscalerError: there is none, or no Docker engine answers.
        """
        run = partial(subprocess.run, check=False, capture_output=True, text=True)
        try:
            engine = run(["docker", "version", "--format", "{{.Server.Version}}"])
            if engine.returncode != 0:
                raise AutoscalerError(f"the Docker engine does not answer: {engine.stderr.strip()}")
            is_v2 = run(["docker", "compose", "version"]).returncode == 0
            command = ["docker", "compose"] if is_v2 else ["docker-compose"]
            run([*command, "version"]).check_returncode()
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            raise AutoscalerError(f"{error}; {WANTS_DOCKER}") from error
        return cls(command, {**environ, **variables(config.system, config_path, digest)})

    @property
    def ids(self) -> tuple[int, int]:
        """Return user and group of the containers that are not root's."""
        names = "LIBVIRT_AUTOSCALER_UID", "LIBVIRT_AUTOSCALER_GID"
        uid, gid = (int(self._environ.get(name, DEFAULT_ID)) for name in names)
        return uid, gid

    def build(self) -> str:
        """Build the image, unless the operator names one that is built already; return what was done."""
        image = self._environ.get("LIBVIRT_AUTOSCALER_IMAGE")
        if image and self._succeeds("docker", "image", "inspect", image):
            return f"{image} as it is"
        self.run("build", "actuator")
        return "built"

    def run(self, *words: str) -> str:
        """Run a command of compose in the project's directory; return its output.

        Raises:
            AutoscalerError: it failed; with the end of what it said.
        """
        done = subprocess.run(
            [*self._command, *words], check=False, capture_output=True, text=True, cwd=stack.ROOT, env=self._environ
        )
        if done.returncode != 0:
            said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-EXPLANATION_LINES:])
            raise AutoscalerError(f"{' '.join([*self._command, *words])} failed:\n{said}")
        return done.stdout

    def _succeeds(self, *command: str) -> bool:
        return subprocess.run(command, check=False, capture_output=True, env=self._environ).returncode == 0


def refuse_other_tree(system: System, here: Path) -> None:
    """Return unless containers run that were started from another directory: compose here does not know them.

    It knows its own by the directory's name. So a directory that was moved and kept its name finds them again.

    Raises:
        AutoscalerError: such containers run; nothing was changed. The message says how they are stopped.
    """
    told = system.run_path / TREE
    is_running = any(is_locked(system.run_path / f"{name}.lock") for name in ALL_SERVICES)
    if not shared_dirs.are_shared(system) or not is_running or not told.is_file():
        return
    there = Path(told.read_text(encoding="utf-8"))
    if there == here or there.resolve() == here.resolve():
        return
    if there.is_dir():
        stop = f"make down RUNTIME=compose in {there}"
    elif project(there) != project(here):
        stop = f"docker compose -p {project(there)} down"
    else:
        return
    raise AutoscalerError(
        f"nothing was changed: the containers that use {system.run_path} were started from {there}, "
        f"and this is {here}. First stop them: {stop}"
    )


def project(directory: Path) -> str:
    """Return the name that compose gives to what it starts from a directory.

    >>> project(Path("/opt/Auto.scaler-2"))
    'autoscaler-2'
    """
    return re.sub(r"[^a-z0-9_-]", "", directory.name.lower()).lstrip("_-")


def variables(system: System, config_path: Path, digest: str) -> dict[str, str]:
    """Return what docker-compose.yml is to be told of this configuration."""
    return {
        "AUTOSCALER_CONFIG": str(config_path.resolve()),
        "LIBVIRT_AUTOSCALER_RUN_DIR": system.run_dir,
        "LIBVIRT_AUTOSCALER_STATE_DIR": system.state_dir,
        "LIBVIRT_AUTOSCALER_CONFIG_DIGEST": digest,
    }


def _start(config: Config, compose: Compose, digest: str) -> str:
    """Start or renew the containers; a changed configuration is given to a running HAProxy without a new container."""
    marker = config.system.run_path / MARKER
    is_running = shared_dirs.are_shared(config.system)
    has_changed = is_running and not (marker.is_file() and marker.read_text(encoding="ascii") == digest)
    if not is_running:
        stack.check_addresses_are_free(config)
    shared_dirs.hand_over(config.system, *compose.ids)
    compose.run("up", "-d", "--remove-orphans")
    write_text(marker, digest)
    write_text(config.system.run_path / TREE, str(stack.ROOT))
    if has_changed:
        compose.run("exec", "-T", "balancer", "python3", "-m", "services.balancer", "--write-config")
        # From inside: after a signal sent by the engine itself, Docker would not start the container again.
        compose.run("exec", "-T", "haproxy", "sh", "-c", "kill -USR2 1")
        return "renewed with the changed configuration; HAProxy reloaded it"
    return "running already" if is_running else "started"
