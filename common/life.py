"""The mark of a service's life, in the run directory: how its last run ended, for the run that comes after it.

Each service replaces its own ``NAME.life`` at its start, every few seconds while its loop turns, and when it ends. A
mark that tells no end is that of a run that was killed. ``first`` and ``news`` decide; ``Mark`` reads and writes.

# Note [What a mark is worth]
Monotonic times compare only within one boot, and a machine that was booted anew ended all runs: a mark of another boot
tells nothing. A stop is noted when the service takes it up, before it leaves everything behind: what is killed on the
way was told to stop. A full disk keeps an older mark, so ``seen_at_s`` is when a run was last *known* to live.

# Note [A crash loop]
What dies every few seconds would tell so every few seconds, and somebody may be woken by it. So the first ``FREELY``
deaths are told one by one, then at most one a minute, two minutes, … an hour, with the number of those between; a run
that lived for ``CALM_S`` ends that.
"""

import json
import os
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from common import files
from common.clock import Clock, boot_id
from common.figures import MAX_EPOCH_S, MAX_MONO_S, count_in, time_in
from common.log import Quiet, logger
from common.plain import plain

EVERY_S: Final = 5.0
STOPPED: Final = "stopped"
FAILED: Final = "failed"
RUNNING: Final = ""
FREELY: Final = 5
FIRST_WAIT_S: Final = 60.0
LONGEST_WAIT_S: Final = 3600.0
CALM_S: Final = 600.0
SAY_AGAIN_S: Final = 3600.0
MAX_BYTES: Final = 4096
MAX_WHY: Final = 200


@dataclass(frozen=True, slots=True)
class Life:
    """One run of a service, as its mark tells it.

    ``began_mono_s``, ``seen_mono_s`` and ``before_mono_s`` (when the run before it was last known to live, 0 if there
    was none) are monotonic, within ``boot_id``; ``seen_at_s`` is ``seen_mono_s`` in epoch seconds. ``end`` is
    ``stopped``, ``failed`` (then ``why`` says of what) or empty: it lives, or was killed.

    ``deaths`` counts the runs before it that died and that nobody was told of yet, ``told`` how often in a row it was
    told, the last time at ``told_mono_s``: see Note [A crash loop].
    """

    boot_id: str
    pid: int
    began_mono_s: float
    seen_mono_s: float
    seen_at_s: float
    end: str = RUNNING
    why: str = ""
    before_mono_s: float = 0.0
    deaths: int = 0
    told: int = 0
    told_mono_s: float = 0.0

    @property
    def is_ended(self) -> bool:
        """Return whether it ended by itself, because it was told to."""
        return self.end == STOPPED


def first(last: Life | None, boot: str, pid: int, mono_s: float, epoch_s: float) -> Life:
    """Return the first mark of a run.

    Args:
        last: what the run before it left; None if nothing is known.
        boot: the identifier of this boot.
        pid: of the new run's process.
        mono_s: now, monotonic.
        epoch_s: now, in epoch seconds.
    """
    begun = Life(boot, pid, mono_s, mono_s, epoch_s)
    if last is None or last.boot_id != boot:
        return begun
    begun = replace(begun, before_mono_s=last.seen_mono_s)
    if last.is_ended:
        return begun
    is_calm = last.seen_mono_s - last.began_mono_s >= CALM_S
    told = 0 if is_calm else last.told
    return replace(begun, deaths=last.deaths + 1, told=told, told_mono_s=last.told_mono_s)


def is_news(life: Life, mono_s: float) -> bool:
    """Return whether it is to be told now that the run before this one died."""
    return life.deaths > 0 and (life.told < FREELY or mono_s - life.told_mono_s >= wait_s(life.told))


def wait_s(told: int) -> float:
    """Return for how many seconds it is not told again after it was told so often in a row.

    >>> [wait_s(told) for told in (1, 4, 5, 6, 99)]
    [0.0, 0.0, 60.0, 120.0, 3600.0]
    """
    return 0.0 if told < FREELY else min(FIRST_WAIT_S * 2.0 ** min(told - FREELY, 30), LONGEST_WAIT_S)


def sentence(name: str, last: Life, deaths: int) -> str:
    """Return what is told of a run that died, once the service runs again.

    >>> life = Life("b", 4711, 1.0, 9.0, 1795374063.0)
    >>> sentence("decider", life, 1)
    'decider runs again. Its last run (process 4711) did not end by itself: it was killed, or crashed; last known to \
live at 2026-11-22 19:01:03 UTC'
    """
    at = utc(last.seen_at_s)
    how = f"it failed at {at} ({last.why})" if last.end == FAILED else "it was killed, or crashed; last known to live"
    when = "" if last.end == FAILED else f" at {at}"
    often = f"; {deaths} runs ended like that since it was last told" if deaths > 1 else ""
    return f"{name} runs again. Its last run (process {last.pid}) did not end by itself: {how}{when}{often}"


def utc(at_s: float) -> str:
    """Return an instant (epoch seconds) as services say it.

    >>> utc(1795374063.0)
    '2026-11-22 19:01:03 UTC'
    """
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def place(run_path: Path, name: str) -> Path:
    """Return where the mark of the service ``name`` stands."""
    return run_path / f"{name}.life"


def read(run_path: Path, name: str) -> Life | None:
    """Return what stands in a mark; None where there is none, it is damaged, or this user may not read it."""
    try:
        values = json.loads(files.read_file(place(run_path, name), MAX_BYTES))
        return Life(
            boot_id=plain(str(values["boot_id"]), 100),
            pid=count_in(values["pid"]),
            began_mono_s=time_in(values["began_mono_s"], 0.0, MAX_MONO_S),
            seen_mono_s=time_in(values["seen_mono_s"], 0.0, MAX_MONO_S),
            seen_at_s=time_in(values["seen_at_s"], 0.0, MAX_EPOCH_S),
            end=plain(str(values["end"]), 20),
            why=plain(str(values["why"]), MAX_WHY),
            before_mono_s=time_in(values["before_mono_s"], 0.0, MAX_MONO_S),
            deaths=count_in(values["deaths"]),
            told=count_in(values["told"]),
            told_mono_s=time_in(values["told_mono_s"], 0.0, MAX_MONO_S),
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


class Mark:
    """The mark of this process; to be used by the holder of the service's lock only."""

    def __init__(self, run_path: Path, name: str, clock: Clock) -> None:
        """Begin the mark of a new run; ``last`` is what the run before it left, None if nothing is known."""
        self.last = read(run_path, name)
        self._run_path, self._name, self._clock = run_path, name, clock
        self._quiet = Quiet(SAY_AGAIN_S)
        self._life = first(self.last, boot_id(), os.getpid(), clock.monotonic_s(), clock.epoch_s())
        self._write(self._life)

    def news(self, now_s: float) -> str:
        """Return, once, what is to be told of the run before this one, empty if nothing; ``now_s`` is monotonic."""
        if self.last is None or not is_news(self._life, now_s):
            return ""
        text = sentence(self._name, self.last, self._life.deaths)
        self._write(replace(self._life, deaths=0, told=self._life.told + 1, told_mono_s=now_s))
        return text

    def lives(self, now_s: float) -> None:
        """Note that the loop turned at ``now_s`` (monotonic), every ``EVERY_S``."""
        if now_s - self._life.seen_mono_s >= EVERY_S:
            self._write(self._life)

    def stopped(self) -> None:
        """Note that the service ends because it was told to."""
        self._write(replace(self._life, end=STOPPED))

    def failed(self, why: str) -> None:
        """Note that the service ends because of an error."""
        self._write(replace(self._life, end=FAILED, why=plain(why, MAX_WHY)))

    def _write(self, life: Life) -> None:
        """Replace the mark, with the time of now; where that fails the old one stands, and the log says so."""
        mono_s = self._clock.monotonic_s()
        self._life = replace(life, seen_mono_s=mono_s, seen_at_s=self._clock.epoch_s())
        path = place(self._run_path, self._name)
        try:
            files.replace_file(path, json.dumps(asdict(self._life)).encode(), mode=files.PUBLIC, is_durable=False)
        except OSError as error:
            if self._quiet.may_say("life", mono_s):
                logger().warning("life-not-marked", path=str(path), reason=error.strerror)
