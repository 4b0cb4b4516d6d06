"""What every service is: one loop in one process, killable at any instant.

``main`` reads the configuration, takes the lock, opens the bus, and then waits for messages and calls the service's
``step`` until it is told to stop. The loop itself publishes ``ServiceStatus``, so that the message proves that the loop
turns, and tells systemd the same. Anything unexpected ends the process: the supervisor starts it again, and it rebuilds
all it needs by looking. SIGHUP, and the request ``reload``, have it read its configuration again
(``common.reloading``).
"""

import argparse
import ctypes
import errno
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Final, Protocol, runtime_checkable

from common import __version__, config_file, config_places, in_force, log
from common.bus import Bus, Inbox
from common.clock import Clock, SystemClock
from common.config import Config
from common.errors import AutoscalerError, ConfigError
from common.life import Life, Mark
from common.log import logger
from common.messages import Event, Reply, ServiceStatus
from common.reloading import VERB, Outcome, outcome
from common.sd_notify import Notifier
from common.state_dir import StateDir, ensure_state_dir

LATE_AFTER_S: Final = 1.0
STATE_LOOK_S: Final = 15.0
STATE_NOTE: Final = "state_dir"
CONFIG_NOTE: Final = "configuration"
RUN_DIR_VARIABLE: Final = "LIBVIRT_AUTOSCALER_RUN_DIR"
"""Set by our supervisord: where what is in force is found while the file cannot tell."""
STUCK_THREADS_S: Final = 2.0
LINGER_S: Final = 3.0
KEEP_S: Final = 60.0
"""How long what is said at a start is said again to new listeners: they find a service again within a second or so, but
may have been killed with it."""
_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True)
class Context:
    """What a service is given to work with.

    ``notes``, by a key of the service's own, say what an operator should know: ``status`` shows them. ``last_life`` is
    what the run before this one left, None if nothing is known.
    """

    name: str
    config: Config
    config_digest: str
    config_path: Path
    clock: Clock
    bus: Bus
    is_stopping: Callable[[], bool]
    notes: dict[str, str] = field(default_factory=dict)
    last_life: Life | None = None


class Service(Protocol):
    """What a service does; both are called by one thread only."""

    def step(self, inbox: Inbox, now_s: float) -> float:
        """Handle what arrived, do what is due, and return in how many seconds to be called again at the latest."""

    def close(self) -> None:
        """Leave everything such that the next start resumes it, within 2 s."""


@runtime_checkable
class Reloadable(Protocol):
    """A service that the keys which may change while it runs concern (``common.config_live``)."""

    def reload(self, config: Config, now_s: float) -> None:
        """Work with ``config`` from now on; it differs from the one before in such keys only."""


@runtime_checkable
class Keeper(Protocol):
    """A service that keeps something in the state directory."""

    def keep_again(self, now_s: float) -> None:
        """Write what is kept once more: the state directory is a new one, and empty."""


class _Stop:
    """Why the loop is to end or to reload: a signal, or a thread that died of an error."""

    def __init__(self) -> None:
        self.is_set = False
        self.is_reload_asked = False
        self.has_failed = False
        self.why = ""
        self.wake: Callable[[], None] = lambda: None

    def on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.is_set = True
        self.wake()

    def on_hangup(self, _number: int, _frame: FrameType | None) -> None:
        self.is_reload_asked = True
        self.wake()

    def on_thread_error(self, args: threading.ExceptHookArgs) -> None:
        if args.exc_type is SystemExit:
            return
        name = args.thread.name if args.thread else "unknown"
        error = args.exc_value or args.exc_type()
        logger().error("thread-failed", thread=name, exc_info=error)
        self.why = f"thread {name}: {type(error).__name__}: {error}"
        self.is_set = self.has_failed = True
        self.wake()


def main(name: str, build: Callable[[Context], Service], argv: Sequence[str] | None = None) -> int:
    """Run the service ``name`` until SIGTERM or SIGINT; return its exit code.

    Args:
        name: one of ``common.services.ALL_SERVICES``.
        build: makes the service from its context; it may publish and subscribe.
        argv: the command line without the program's name; by default that of the process.

    Returns:
        0 after a clean stop, 1 after an error, 2 if the configuration is wrong, 75 if another copy runs.
    """
    log.configure(name, "info")
    clock, stop = SystemClock(), _Stop()
    began_s = clock.monotonic_s()
    code = 1
    try:
        path = _parse(name, argv)
        _die_with_supervisor()
        code = _run(name, build, path, stop)
    except AutoscalerError as error:
        logger().error("cannot-run", reason=str(error))
        code = error.exit_code
    except Exception as error:  # noqa: BLE001 - the top of the process: logged whole, and the supervisor starts it again
        logger().error("service-failed", exc_info=error)
    _linger(linger_s(code, clock.monotonic_s() - began_s, os.environ))
    return _leave(code)


def _parse(name: str, argv: Sequence[str] | None) -> Path:
    parser = argparse.ArgumentParser(prog=f"python -m services.{name}", description=f"Run the {name}.")
    parser.add_argument("--config", type=Path, metavar="FILE", help=config_places.HELP)
    return config_places.chosen(parser.parse_args(argv).config)


def _run(name: str, build: Callable[[Context], Service], path: Path, stop: _Stop) -> int:
    signal.signal(signal.SIGTERM, stop.on_signal)
    signal.signal(signal.SIGINT, stop.on_signal)
    signal.signal(signal.SIGHUP, stop.on_hangup)
    loaded, fault = configured(path, os.environ)
    config, digest = loaded.config, loaded.digest
    log.configure(name, config.system.log_level)
    clock = SystemClock()
    systemd = Notifier.from_environment()
    _make_state_dir(config.system.state_path)
    bus = Bus.open(config, name, clock)
    mark = Mark(config.system.run_path, name, clock)
    _keep_in_force(name, config, loaded.source)
    stop.wake = bus.wake
    threading.excepthook = stop.on_thread_error
    logger().info("service-started", pid=os.getpid(), run=f"{bus.run_id:x}", config=digest)
    if fault:
        logger().warning("config-refused", path=str(path), reason=fault)
    try:
        notes = {CONFIG_NOTE: fault} if fault else {}
        context = Context(name, config, digest, path, clock, bus, lambda: stop.is_set, notes, mark.last)
        service = build(context)
        systemd.ready()
        try:
            _loop(context, service, stop, systemd, mark)
        finally:
            systemd.stopping()
            service.close()
    except Exception as error:
        mark.failed(f"{type(error).__name__}: {error}")
        raise
    finally:
        bus.close()
    logger().info("service-stopped", pid=os.getpid())
    return 1 if stop.has_failed else 0


def _loop(context: Context, service: Service, stop: _Stop, systemd: Notifier, mark: Mark) -> None:
    """Wait, step, tell that we live, until told to stop."""
    clock, bus, every_s = context.clock, context.bus, context.config.system.republish_s
    started_at_s = clock.epoch_s()
    due_s = told_s = clock.monotonic_s()
    told_s -= every_s
    state = StateDir(context.config.system.state_path, context.name, bus.run_id)
    looked_s = due_s
    while not context.is_stopping():
        now_s = clock.monotonic_s()
        systemd.turned(now_s)
        _tell_life(bus, mark, now_s)
        wait_s = max(0.0, min(due_s, told_s + every_s, looked_s + STATE_LOOK_S) - now_s)
        inbox = bus.receive(wait_s if systemd.every_s is None else min(wait_s, systemd.every_s / 2))
        now_s = clock.monotonic_s()
        if now_s - due_s > LATE_AFTER_S:
            bus.counters["late"] += 1
        before, (context, inbox) = context, _reload(context, service, stop, systemd, inbox, now_s)
        told_s = told_s if context is before else now_s - every_s
        if now_s - looked_s >= STATE_LOOK_S:
            looked_s = now_s
            _look_after(state, context, service, now_s)
        wait_s = service.step(inbox, now_s)
        if math.isnan(wait_s):
            raise ValueError(f"step must return seconds; got {wait_s}")
        due_s = now_s + wait_s
        if now_s - told_s >= every_s:
            told_s = now_s
            _end_without_descriptors()
            bus.publish(_status(context, started_at_s))
    if stop.has_failed:
        mark.failed(stop.why)
    else:
        mark.stopped()


def _tell_life(bus: Bus, mark: Mark, now_s: float) -> None:
    """Note that the loop turns; tell, where it is news, that the run before this one did not end by itself."""
    mark.lives(now_s)
    if text := mark.news(now_s):
        logger().warning("service-restarted", reason=text)
        bus.publish(Event(name="service-restarted", text=text, level="warning"), keep_s=KEEP_S)


def _end_without_descriptors() -> None:
    """Return, unless the process cannot open one file more.

    It could not let anybody in, and would take what it cannot reach for dead: half alive it is worse than started anew.

    Raises:
        OSError: "Too many open files".
    """
    try:
        os.close(os.dup(2))
    except OSError as error:
        if error.errno == errno.EMFILE:
            raise


def _make_state_dir(path: Path) -> None:
    """Make the state directory where it is missing; without it a service runs, and its stores tell what they lack."""
    try:
        ensure_state_dir(path)
    except OSError as error:
        logger().warning("state-dir-missing", path=str(path), reason=error.strerror)


def configured(path: Path, environ: Mapping[str, str]) -> tuple[config_file.Loaded, str]:
    """Return the configuration at ``path``; where a supervisor starts us again and it is wrong, the one in force.

    ``up`` refuses a wrong file before it starts anything. One that goes wrong later must not keep what has died from
    coming back.

    Returns:
        It, and what is wrong with the file that it stands in for, empty if nothing is.

    Raises:
        ConfigError: it is wrong, and this very file is not in force here.
    """
    try:
        return config_file.read(path), ""
    except ConfigError as error:
        kept = in_force.place(Path(environ.get(RUN_DIR_VARIABLE, "/nonexistent")))
        try:
            if "SUPERVISOR_ENABLED" in environ and in_force.read(kept).path.resolve() == path.resolve():
                return config_file.read(kept), f"{error}; it runs with what was last taken over"
        except ConfigError:
            pass
        raise


def _keep_in_force(name: str, config: Config, source: in_force.InForce | None) -> None:
    """Have the actuator keep what it has taken over: what runs is looked at and stopped by it if its file is wrong."""
    if name != in_force.KEEPER or source is None:
        return
    origin = os.environ.get(in_force.ORIGIN_VARIABLE)
    try:
        in_force.keep(config.system.run_path, replace(source, path=Path(origin)) if origin else source)
    except OSError as error:
        logger().warning("config-in-force-not-kept", path=str(config.system.run_path), reason=error.strerror)


def _look_after(state: StateDir, context: Context, service: Service, now_s: float) -> None:
    """Have the state directory, and what the service keeps there, stand again where it was lost."""
    if not state.is_lost():
        return
    path = str(context.config.system.state_path)
    try:
        state.make_anew()
    except OSError as error:
        context.notes[STATE_NOTE] = f"state_dir {path} is lost and cannot be made anew: {error.strerror}"
        return
    context.notes.pop(STATE_NOTE, None)
    context.bus.counters["state_dir_lost"] += 1
    logger().warning("state-dir-lost", path=path, now="made anew, and written to again")
    if isinstance(service, Keeper):
        service.keep_again(now_s)


def _reload(
    context: Context, service: Service, stop: _Stop, systemd: Notifier, inbox: Inbox, now_s: float
) -> tuple[Context, Inbox]:
    """Do what a signal or requests ask for; return the context in force after it, and what is left for the service."""
    asked = [pending for pending in inbox.requests if pending.request.verb == VERB]
    if stop.is_reload_asked:
        stop.is_reload_asked = False
        systemd.reloading(now_s)
        context = _taken_over(context, service, outcome(context.config, context.config_path), now_s)
        systemd.ready()
    for pending in asked:
        found = outcome(context.config, context.config_path)
        if not pending.request.args.get("check"):
            context = _taken_over(context, service, found, now_s)
        pending.reply(_with_notes(found.reply, context))
    left = tuple(pending for pending in inbox.requests if pending not in asked)
    return context, Inbox(inbox.messages, left) if asked else inbox


def _with_notes(reply: Reply, context: Context) -> Reply:
    """Return the answer with what the operator should know beside it."""
    if reply.status != "applied" or not context.notes:
        return reply
    return reply.model_copy(update={"reason": "; ".join([reply.reason, *context.notes.values()])})


def _taken_over(context: Context, service: Service, found: Outcome, now_s: float) -> Context:
    """Return the context with the configuration that was found, or as it was; either is logged and told."""
    if found.config is None:
        logger().warning("config-refused", path=str(context.config_path), reason=found.reply.reason)
        text = f"{context.name}: {found.reply.reason}"
        context.bus.publish(Event(name="config-refused", text=text, level="warning"))
        return context
    log.configure(context.name, found.config.system.log_level)
    _keep_in_force(context.name, found.config, found.source)
    context.notes.pop(CONFIG_NOTE, None)
    logger().info("config-reloaded", config=found.digest, changes=list(found.changes))
    if found.changes and isinstance(service, Reloadable):
        service.reload(found.config, now_s)
    context.bus.publish(Event(name="config-reloaded", text=f"{context.name}: {found.reply.reason}"))
    return replace(context, config=found.config, config_digest=found.digest)


def _status(context: Context, started_at_s: float) -> ServiceStatus:
    return ServiceStatus(
        name=context.name,
        pid=os.getpid(),
        started_at_s=started_at_s,
        release=__version__,
        config_digest=context.config_digest,
        counters=dict(context.bus.counters),
        note="; ".join(context.notes.values()),
    )


def _die_with_supervisor() -> None:
    """Ask the kernel for SIGTERM when supervisord dies, so that a new one finds no orphans in its way."""
    if "SUPERVISOR_ENABLED" not in os.environ:
        return
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        logger().warning("parent-death-signal-refused", reason=os.strerror(ctypes.get_errno()))
    if os.getppid() != parent or _is_orphan(parent):
        raise AutoscalerError("supervisord died while this service started")


def _is_orphan(parent: int) -> bool:
    """Return whether the parent is the machine's init; in a container, process 1 may be supervisord itself."""
    if parent != 1:
        return False
    return b"supervisord" not in Path("/proc/1/cmdline").read_bytes()


# Note [A steady pace after a failure]
# supervisord starts what has ended again at its next looks, within two seconds: what is killed is back soon, however
# young it was. Its own back-off (``startsecs``) cannot tell a kill from a failure, and grows without a limit. So a
# service that fails soon after its start stays for ``LINGER_S`` before it goes: a crash loop turns at one pace.


def linger_s(code: int, lived_s: float, environ: Mapping[str, str]) -> float:
    """Return how long to stay before the process ends; see Note [A steady pace after a failure].

    >>> linger_s(1, 0.4, {"SUPERVISOR_ENABLED": "1"}), linger_s(1, 9.0, {"SUPERVISOR_ENABLED": "1"})
    (3.0, 0.0)
    """
    is_quick = code != 0 and lived_s < LINGER_S
    return LINGER_S if is_quick and "SUPERVISOR_ENABLED" in environ else 0.0


def _linger(for_s: float) -> None:
    """Wait; a signal to stop ends the process at once, for nothing is open any more."""
    if for_s > 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        threading.Event().wait(for_s)


def _leave(code: int) -> int:
    """Return ``code``, unless a thread that never ends would keep the process half alive: then exit here."""
    others = [thread for thread in threading.enumerate() if thread is not threading.current_thread()]
    stuck = []
    for thread in others:
        if not thread.daemon:
            thread.join(STUCK_THREADS_S / len(others))
            stuck += [thread.name] if thread.is_alive() else []
    if stuck:
        logger().warning("threads-left", threads=stuck)
        sys.stderr.flush()
        os._exit(code)
    return code
