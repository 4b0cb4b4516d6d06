"""What long work says while it runs: one numbered line a step, what it waits for, its outcome and its seconds.

# Note [Nobody is left in the dark]
A thread says it, so a step that waits in one long call is heard of like one that looks again and again: on a terminal
its line is drawn anew each second, elsewhere a line comes whenever something else is waited for, and every 30 s. Words
that do not fit the terminal's line are said above it, whole, once.
"""

import os
import re
import selectors
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, TextIO

from common.clock import Clock

TICK_S: Final = 1.0
REPEAT_S: Final = 30.0
_DIGITS = re.compile(r"\d+")
What = str | Callable[[], str]


class Wait:
    """One thing that takes its time, from ``with`` to its end; what it waits for may change meanwhile."""

    def __init__(self, clock: Clock, head: str, lead: str = "      ") -> None:
        """Say nothing yet.

        Args:
            clock: measures how long it takes.
            head: begins the line on a terminal.
            lead: begins each line elsewhere.
        """
        self._clock = clock
        self._head = head
        self._lead = lead
        self._is_terminal = sys.stdout.isatty()
        self._begun_s = self._said_s = clock.monotonic_s()
        self._what: What = ""
        self._until_s: float | None = None
        self._told = ""
        self._lock = threading.RLock()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True)

    def __enter__(self) -> "Wait":
        """Begin to repeat what is waited for."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        """End; a failure is told on a line of its own."""
        self._is_over.set()
        self._thread.join()
        if kind is not None and self._is_terminal:
            print(flush=True)

    @property
    def took_s(self) -> float:
        """Return the seconds since it began."""
        return self._clock.monotonic_s() - self._begun_s

    def wait_for(self, what: What, until_s: float | None = None) -> None:
        """Say what is waited for now.

        Args:
            what: in words, or what gives the words whenever they are to be said.
            until_s: when that is given up, in seconds since the machine booted; None where the words say it.
        """
        with self._lock:
            self._what, self._until_s = what, until_s
            self._say(self._is_terminal)

    def note(self, what: What) -> None:
        """Take what is waited for from here, but say it only where it lasts, or when it becomes something else."""
        with self._lock:
            self._what, self._until_s = what, None
            self._told = _DIGITS.sub("", self._words())

    def tell(self, line: str, stream: TextIO) -> None:
        """Print a line of its own, above the one that is drawn anew."""
        with self._lock:
            if self._is_terminal:
                print("\r\033[K", end="", flush=True)
            print(line, file=stream, flush=True)
            self._said_s = self._clock.monotonic_s()

    def _repeat(self) -> None:
        while not self._is_over.wait(TICK_S):
            with self._lock:
                self._say(self._is_terminal or self._clock.monotonic_s() - self._said_s >= REPEAT_S)

    def _say(self, is_due: bool) -> None:
        """Say it if it is due, or other than the last time."""
        what = self._words()
        now_s = self._clock.monotonic_s()
        spent = f"({now_s - self._begun_s:.0f} s)"
        if self._until_s is not None:
            spent = f"{spent[:-1]}; given up at {self._until_s - self._begun_s:.0f} s)"
        is_other = _DIGITS.sub("", what) != self._told
        if self._is_terminal:
            self._draw(what, spent, is_other)
        elif is_due or is_other:
            self._said_s = now_s
            print(f"{self._lead}{what or 'at work'} {spent}", flush=True)
        self._told = _DIGITS.sub("", what)

    def _words(self) -> str:
        return self._what() if callable(self._what) else self._what

    def _draw(self, what: str, spent: str, is_other: bool) -> None:
        room = max(20, shutil.get_terminal_size().columns - len(self._head) - len(spent) - 5)
        if len(what) > room:
            if is_other:
                print(f"\r\033[K{self._lead}{what}", flush=True)
            what = f"{what[: room - 1]}…"
        print(f"\r\033[K{self._head} … {what}{' ' if what else ''}{spent}", end="", flush=True)


class Steps:
    """Numbered progress on standard output; the running step shows what it waits for, see ``Wait``."""

    def __init__(self, clock: Clock, total: int) -> None:
        self._clock = clock
        self._total = total
        self._number = 0
        self._is_terminal = sys.stdout.isatty()
        self._wait: Wait | None = None

    @contextmanager
    def step(self, title: str) -> Iterator["Steps"]:
        """Announce a step, and say how long it took when it ends well."""
        self._number += 1
        self._outcome = "ok"
        head = f"[{self._number}/{self._total}] {title}"
        print(head, end=" … " if self._is_terminal else "\n", flush=True)
        with Wait(self._clock, head) as wait:
            self._wait = wait
            yield self
        self._wait = None
        lead = f"\r\033[K{head}: " if self._is_terminal else "      "
        print(f"{lead}{self._outcome} ({wait.took_s:.1f} s)", flush=True)

    def say(self, outcome: str) -> None:
        """Set what the running step ends with."""
        self._outcome = outcome

    def wait_for(self, what: What, until_s: float | None = None) -> None:
        """Show what the running step waits for; arguments as those of ``Wait.wait_for``."""
        if self._wait is not None:
            self._wait.wait_for(what, until_s)

    def run(self, command: Sequence[str], cwd: Path | None = None) -> int:
        """Run a command whose lines people are to see; return its exit code.

        Args:
            command: the program and its arguments. A line that it has only begun is shown as what is waited for.
            cwd: the directory to run it in.

        Raises:
            OSError: it cannot be run.
        """
        sys.stdout.flush()
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, cwd=cwd) as process:
            self._relay(process)
            return process.wait()

    def _relay(self, process: "subprocess.Popen[bytes]") -> None:
        """Tell what a command prints, line by line, each on the stream it was meant for."""
        with selectors.DefaultSelector() as selector:
            for source, stream in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
                if source is not None:
                    selector.register(source, selectors.EVENT_READ, _Lines(self, stream))
            while selector.get_map():
                for key, _ in selector.select():
                    if not key.data.take(os.read(key.fd, 65536)):
                        selector.unregister(key.fileobj)

    def note(self, what: What) -> None:
        """Take what the running step waits for, as ``Wait.note`` does."""
        if self._wait is not None:
            self._wait.note(what)

    def tell(self, line: str, stream: TextIO) -> None:
        """Print a line of its own while a step runs."""
        if self._wait is None:
            print(line, file=stream, flush=True)
        else:
            self._wait.tell(line, stream)


class _Lines:
    """Makes lines of what comes in pieces."""

    def __init__(self, steps: Steps, stream: TextIO) -> None:
        self._steps = steps
        self._stream = stream
        self._begun = b""

    def take(self, piece: bytes) -> bool:
        """Tell the lines that are whole now; return whether more may come."""
        *lines, self._begun = (self._begun + piece).split(b"\n")
        if not piece and self._begun:
            lines, self._begun = [self._begun], b""
        for line in lines:
            self._steps.tell(line.decode(errors="replace"), self._stream)
        if self._begun:
            self._steps.note(self._begun.decode(errors="replace").strip())
        return bool(piece)
