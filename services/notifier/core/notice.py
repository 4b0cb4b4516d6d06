"""What a receiver is told of one event: the same bytes at every attempt."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from common.config_outputs import ALL_EVENTS, EVENT_CLASSES
from common.messages import Event


@dataclass(frozen=True, slots=True)
class Notice:
    """One event on its way. ``id`` is the message's identifier: the same at every attempt and after a restart."""

    id: str
    type: str
    body: str

    @property
    def fields(self) -> dict[str, str]:
        """Return what the event says, by the names of its fields."""
        return {key: str(value) for key, value in json.loads(self.body)["data"].items() if value is not None}


def notice_of(event: Event, identifier: str, source: str, sent_at_s: float, cause: str | None) -> Notice:
    """Return what is told of an event.

    Args:
        event: as it was heard.
        identifier: its ``message_id``.
        source: the service that said it.
        sent_at_s: when, in epoch seconds.
        cause: what led to it; None where nobody said.
    """
    at = datetime.fromtimestamp(sent_at_s, UTC).isoformat(timespec="milliseconds")
    data = {"source": source, "cause": cause, **event.model_dump(exclude={"name"})}
    id = id_of(identifier)
    body = json.dumps({"id": id, "type": event.name, "timestamp": at, "data": data}, ensure_ascii=False)
    return Notice(id, event.name, body)


def id_of(identifier: str) -> str:
    """Return a message's identifier as a notice's: the dot is what parts the signed text.

    >>> id_of("decider/7f/event.scale-out/3")
    'decider-7f-event-scale-out-3'
    """
    return identifier.replace("/", "-").replace(".", "-")


def names_of(wanted: Collection[str]) -> frozenset[str] | None:
    """Return the events that a notification's ``events`` stands for; None stands for all.

    >>> sorted(names_of(["breaker", "operator"]))
    ['breaker-closed', 'breaker-opened', 'operator', 'replacing-in-vain']
    """
    if ALL_EVENTS in wanted:
        return None
    return frozenset(name for word in wanted for name in EVENT_CLASSES.get(word, (word,)))
