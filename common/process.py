"""What every service is: one loop in one process, killable at any instant.

``main`` reads the configuration, takes the lock, opens the bus, and then waits for messages and calls the service's
``step`` until it is told to stop. The loop itself publishes ``ServiceStatus``, so that the message proves that the loop
turns. Anything unexpected ends the process: the supervisor starts it again, and it rebuilds all it needs by looking.
"""

import argparse
import ctypes
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final, Protocol

from common import __version__, config_file, config_places, log
from common.bus import Bus, Inbox
from common.clock import Clock, SystemClock
from common.config import Config
from common.errors import AutoscalerError
from common.log import logger
from common.messages import ServiceStatus

LATE_AFTER_S: Final = 1.0
STUCK_THREADS_S: Final = 2.0
_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True)
class Context:
    """What a service is given to work with."""

    name: str
    config: Config
    config_digest: str
    config_path: Path
    clock: Clock
    bus: Bus
    is_stopping: Callable[[], bool]


class Service(Protocol):
    """What a service does; both are called by one thread only."""

    def step(self, inbox: Inbox, now_s: float) -> float:
        """Handle what arrived, do what is due, and return in how many seconds to be called again at the latest."""

    def close(self) -> None:
        """Leave everything such that the next start resumes it, within 2 s."""


class _Stop:
    """Why the loop is to end: a signal, or a thread that died of an error."""

    def __init__(self) -> None:
        self.is_set = False
        self.has_failed = False
        self.wake: Callable[[], None] = lambda: None

    def on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.is_set = True
        self.wake()

    def on_thread_error(self, args: threading.ExceptHookArgs) -> None:
        if args.exc_type is SystemExit:
            return
        name = args.thread.name if args.thread else "unknown"
        error = args.exc_value or args.exc_type()
        logger().error("thread-failed", thread=name, exc_info=error)
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
    stop = _Stop()
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
    return _leave(code)


def _parse(name: str, argv: Sequence[str] | None) -> Path:
    parser = argparse.ArgumentParser(prog=f"python -m services.{name}", description=f"Run the {name}.")
    parser.add_argument("--config", type=Path, metavar="FILE", help=config_places.HELP)
    return config_places.chosen(parser.parse_args(argv).config)


def _run(name: str, build: Callable[[Context], Service], path: Path, stop: _Stop) -> int:
    config, digest = config_file.load(path)
    log.configure(name, config.system.log_level)
    clock = SystemClock()
    bus = Bus.open(config, name, clock)
    stop.wake = bus.wake
    signal.signal(signal.SIGTERM, stop.on_signal)
    signal.signal(signal.SIGINT, stop.on_signal)
    threading.excepthook = stop.on_thread_error
    logger().info("service-started", pid=os.getpid(), run=f"{bus.run_id:x}", config=digest)
    try:
        context = Context(name, config, digest, path, clock, bus, is_stopping=lambda: stop.is_set)
        service = build(context)
        try:
            _loop(context, service)
        finally:
            service.close()
    finally:
        bus.close()
    logger().info("service-stopped", pid=os.getpid())
    return 1 if stop.has_failed else 0


def _loop(context: Context, service: Service) -> None:
    """Wait, step, tell that we live, until told to stop."""
    clock, bus, every_s = context.clock, context.bus, context.config.system.republish_s
    started_at_s = clock.epoch_s()
    due_s = told_s = clock.monotonic_s()
    told_s -= every_s
    while not context.is_stopping():
        now_s = clock.monotonic_s()
        inbox = bus.receive(max(0.0, min(due_s, told_s + every_s) - now_s))
        now_s = clock.monotonic_s()
        if now_s - due_s > LATE_AFTER_S:
            bus.counters["late"] += 1
        wait_s = service.step(inbox, now_s)
        if math.isnan(wait_s):
            raise ValueError(f"step must return seconds; got {wait_s}")
        due_s = now_s + wait_s
        if now_s - told_s >= every_s:
            told_s = now_s
            bus.publish(_status(context, started_at_s))


def _status(context: Context, started_at_s: float) -> ServiceStatus:
    return ServiceStatus(
        name=context.name,
        pid=os.getpid(),
        started_at_s=started_at_s,
        release=__version__,
        config_digest=context.config_digest,
        counters=dict(context.bus.counters),
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
