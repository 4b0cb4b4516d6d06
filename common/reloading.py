"""What comes of reading the configuration again while a service runs: taken over whole, or refused whole."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common import config_file
from common.config import Config
from common.config_live import changes, refusal, renamed
from common.errors import ConfigError
from common.in_force import InForce
from common.messages import Reply

VERB: Final = "reload"
"""The request that every service answers; with ``check``, it only says what it would answer."""

KEPT: Final = "the configuration in force stays"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer, and what is in force from now on: ``config`` is None where the old one stays."""

    reply: Reply
    config: Config | None = None
    digest: str = ""
    changes: tuple[str, ...] = ()
    source: InForce | None = None


def outcome(old: Config, path: Path) -> Outcome:
    """Return what reading ``path`` again comes to, where ``old`` is in force."""
    try:
        loaded = config_file.read(path)
    except ConfigError as error:
        return Outcome(Reply(status="refused", reason=f"{error}; {KEPT}", data={"path": str(path)}))
    new, digest = loaded.config, loaded.digest
    found = changes(old, new)
    texts = tuple(change.text for change in found)
    data = {"path": str(path), "digest": digest, "changes": list(texts)}
    refused = renamed(old, new) or refusal(found)
    if refused:
        return Outcome(Reply(status="refused", reason=f"{refused}; {KEPT}", data=data))
    reply = Reply(status="applied", reason=", ".join(texts) or "nothing changed", data=data)
    return Outcome(reply, new, digest, texts, loaded.source)
