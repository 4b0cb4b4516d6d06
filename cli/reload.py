"""``autoscaler reload``: the changed file is checked here, then by every service, and taken over by all or by none."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.refusals import write_text
from common import bus
from common.config import Config, System
from common.config_file import load
from common.errors import BusError
from common.messages import Reply, Request
from common.reloading import VERB

TIMEOUT_S = 5.0
MARKER = "up.digest"
"""In the run directory: the digest of what ``up`` has started; the next ``up`` restarts what runs with another."""

Ask = Callable[[Config, str, Request, float], Reply]


@dataclass(frozen=True, slots=True)
class Reload:
    """What came of it: each service's answer; ``is_applied`` when all of them took it over."""

    digest: str
    replies: Mapping[str, Reply]
    is_applied: bool
    reason: str = ""

    def values(self) -> dict[str, Any]:
        """Return what ``reload --json`` prints."""
        status = "applied" if self.is_applied else "refused"
        services = {name: {"status": reply.status, "reason": reply.reason} for name, reply in self.replies.items()}
        return {"status": status, "reason": self.reason, "digest": self.digest, "services": services}

    def text(self) -> str:
        """Return the same for people: one line a service, or one for all where they say the same."""
        said = {f"{reply.status}: {reply.reason}" for reply in self.replies.values()}
        if self.is_applied and len(said) == 1:
            return f"{said.pop()} ({', '.join(self.replies)})"
        lines = [f"{name:10} {reply.status}: {reply.reason}" for name, reply in self.replies.items()]
        return "\n".join([*lines, *([self.reason] if self.reason else [])])


def reload(path: Path, by: str, ask: Ask = bus.ask, why_silent: Callable[[], str] = lambda: "") -> Reload:
    """Have every service take the file over, after all of them have said that they would.

    ``why_silent`` says why none of them answers, where that is so.

    Raises:
        ConfigError: the file is wrong; nobody was asked.
    """
    config, digest = load(path)
    trial = _ask_all(config, Request(verb=VERB, args={"check": True}, by=by), ask)
    reason = _objection(trial, digest, path)
    if all(reply.status == "error" for reply in trial.values()) and (silence := why_silent()):
        reason = f"{reason}; {silence}"
    if reason:
        return Reload(digest, trial, is_applied=False, reason=reason)
    replies = _ask_all(config, Request(verb=VERB, by=by), ask)
    is_applied = all(reply.status == "applied" for reply in replies.values())
    if is_applied:
        note_digest(config.system, digest)
    return Reload(digest, replies, is_applied, "" if is_applied else "not every service took it over")


def note_digest(system: System, digest: str) -> None:
    """Have the next ``up`` know that what runs has this configuration, where ``up`` has started it."""
    marker = system.run_path / MARKER
    if marker.is_file():
        write_text(marker, digest)


def _objection(replies: Mapping[str, Reply], digest: str, path: Path) -> str:
    """Return why nothing is to be done, empty where every service would take over this very file."""
    refusing = [name for name, reply in replies.items() if reply.status != "applied"]
    if refusing:
        return f"nothing was changed: {', '.join(refusing)} would not take it over"
    others = {name: reply.data for name, reply in replies.items() if reply.data.get("digest") != digest}
    if not others:
        return ""
    where = ", ".join(f"{name} reads {data.get('path')} (digest {data.get('digest')})" for name, data in others.items())
    return f"nothing was changed: this is {path} (digest {digest}), but {where}; environments may differ too"


def _ask_all(config: Config, request: Request, ask: Ask) -> dict[str, Reply]:
    def one(service: str) -> Reply:
        try:
            return ask(config, service, request, TIMEOUT_S)
        except BusError as error:
            return Reply(status="error", reason=str(error))

    with ThreadPoolExecutor(len(config.services)) as pool:
        return dict(zip(config.services, pool.map(one, config.services), strict=True))
