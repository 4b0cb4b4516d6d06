"""The actuator in a process of its own, which gets a SIGKILL at one of its effects on one domain.

It says each effect on that domain in a line, and what has become of the group in a line of JSON.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from common import log
from common.config import Config
from common.domain import name_in_xml
from common.hypervisor import Connection
from common.messages import Event
from services.actuator.access import disk_pool, may_touch
from services.actuator.worker import Access
from tests.integration.actuator_stand import CLOCK, Driver

EFFECTS: Final = (
    "define",
    "start",
    "shutdown",
    "destroy",
    "undefine",
    "save_to",
    "restore",
    "set_link",
    "set_metadata",
    "set_quota",
)
DURING_S: Final = 0.15  # a restore takes twice as long
UNFED_S: Final = 0.3
LIMIT_S: Final = 90.0


class Fate:
    """Counts the effects on one domain, from its definition on, and ends the process at one of them.

    ``when``: ``before`` or ``after`` the effect, ``during`` it, or while it waits for a pipe that is ``unfed``; or,
    where a domain that others have defined is ``resumed``, after so many effects of this process.
    """

    def __init__(self, domain: str, when: str, index: int) -> None:
        self._domain, self._when, self._index = domain, when, index
        self._count = 0
        self._is_starving = False
        sys.addaudithook(self._on_file)

    @contextmanager
    def around(self, effect: str, domain: str) -> Iterator[None]:
        is_begun = effect == "define" or self._count > 0 or self._when == "resumed"
        is_counted = domain == self._domain and is_begun
        is_last = is_counted and self._is_last(effect)
        if is_last and self._when == "before":
            die()
        if is_last and self._when == "during":
            threading.Timer(DURING_S, die).start()
        self._is_starving = is_last and self._when == "unfed"
        yield
        if is_last:
            die()

    def _is_last(self, effect: str) -> bool:
        self._count += 1
        print(effect, flush=True)
        return self._count == self._index

    def _on_file(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "os.rename" and self._count > 0 and "snapshots" in _target(args):
            if self._is_last("publish"):
                die()
        elif event == "open" and str(args[0]).endswith(".pipe") and self._is_starving:
            threading.Event().wait(UNFED_S)
            die()


def _target(args: tuple[Any, ...]) -> str:
    """Return where a file is renamed to, also where that is told by a directory's descriptor."""
    _source, name, _source_fd, fd = args
    return str(name) if fd == -1 else f"{Path(f'/proc/self/fd/{fd}').readlink()}/{name}"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()


class MortalConnection(Connection):
    """A connection whose every effect may be the last."""

    fate: Fate


def _mortal(effect: str) -> Callable[..., Any]:
    def method(self: MortalConnection, first: str, *others: Any) -> Any:
        with self.fate.around(effect, name_in_xml(first) if effect == "define" else first):
            return getattr(Connection, effect)(self, first, *others)

    return method


for _effect in EFFECTS:
    setattr(MortalConnection, _effect, _mortal(_effect))


class MortalDriver(Driver):
    """Its service reaches libvirt by mortal connections."""

    def _access(self, host: str) -> Access:
        may, pool = may_touch(list(self.config.groups.values())), disk_pool(self.config)
        uri = self.config.hosts[host].uri
        return replace(
            super()._access(host),
            open=lambda: MortalConnection.open(uri, is_read_only=False, may_touch=may, pool=pool),
        )

    def ask_for(self, desired: int) -> None:
        """Want so many; whoever lived before has made domains for the fewer that were wanted then."""
        self.desired, self.generation = desired, int(CLOCK.monotonic_s() * 1000)
        self.maximum = self.config.groups[self.group].maximum

    def is_well(self) -> bool:
        """Return whether all that is wanted serves, nothing else is owned, and a snapshot is there if one is needed."""
        message, kept = self.membership(), self.config.system.state_path / "actuator/snapshots"
        snapshots = int(self.config.groups[self.group].warm.start == "clone")
        return (
            message is not None
            and message.owned_total == self.desired
            and [str(m.phase) for m in message.members] == ["ready"] * self.desired
            and len(list(kept.glob("*/*.save"))) == snapshots
        )

    def story(self) -> dict[str, object]:
        message = self.membership()
        assert message is not None
        return {
            "members": [(m.name, m.tier, m.address) for m in message.members],
            "notes": message.notes,
            "events": [(b.name, b.domain, b.text) for b in self.bus.published if isinstance(b, Event)],
        }


def main(path: str, settled: str, desired: str, domain: str, when: str, index: str) -> None:
    """Bring the group to ``settled`` domains and say how it is; then, when told to, to ``desired`` ones."""
    log.configure("actuator", "error")
    MortalConnection.fate = Fate(domain, when, int(index))
    driver = MortalDriver(Config.model_validate_json(Path(path).read_text()))
    if int(settled):
        driver.ask_for(int(settled))
        driver.run_until_true(driver.is_well, LIMIT_S)
        print(json.dumps(driver.story()), flush=True)
        sys.stdin.readline()
    driver.ask_for(int(desired))
    driver.run_until_true(driver.is_well, LIMIT_S)
    print(json.dumps(driver.story()), flush=True)
    driver.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
