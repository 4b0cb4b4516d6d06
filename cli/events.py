"""What happened, from the recording; and, with ``--follow``, what happens."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from common.bus import Bus
from common.clock import Clock, SystemClock
from common.config import Config
from common.errors import ConfigError
from common.messages import Event, Header, message_id
from common.recording import Recording, recording_dir

ANSWER_S = 3.0
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def print_events(
    config: Config, since: str, limit: int, most: int, *, follow: bool, as_json: bool, why_silent: Callable[[], str]
) -> None:
    """Print the newest ``limit`` events of the last ``since``, oldest first; then new ones until Ctrl-C.

    That older ones were left out is said on standard error, with the ``most`` that ``limit`` may be.

    ``why_silent`` says why nobody answers, where that is so.

    Raises:
        ConfigError: ``since`` is not a duration.
        RecordingError: there is no recording that could be read.
    """
    clock = SystemClock()
    recording = Recording(recording_dir(config.system.state_path))
    shown: set[str] = set()
    found = _newest(recording, clock.epoch_s() - duration_s(since), limit + 1, shown)
    found, is_cut = found[-limit:], len(found) > limit
    if as_json and not follow:
        print(json.dumps(found, ensure_ascii=False))
    else:
        for event in found:
            _print(event, as_json=as_json)
    if is_cut:
        more = f"; more: --limit {most}" if limit < most else ""
        _warn(f"older events of the last {since} are left out: these are the newest {limit}{more}")
    if recording.damage.text():
        _warn(recording.damage.text())
    if follow:
        _follow(config, clock, shown, why_silent, as_json=as_json)


def duration_s(text: str) -> float:
    """Return the seconds of a duration such as ``90s``, ``15m``, ``2h`` or ``1d``.

    >>> duration_s("15m")
    900.0

    Raises:
        ConfigError: it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if match is None:
        raise ConfigError(f"a duration is a number and s, m, h or d, such as 15m; got {text!r}")
    return float(match[1]) * _UNITS_S[match[2]]


def _newest(recording: Recording, since_s: float, limit: int, shown: set[str]) -> list[dict[str, Any]]:
    """Return the newest events, oldest first, and note them in ``shown``.

    What is said at a start is said again to new listeners for a while: two recorders, one after the other, may each
    have heard it.
    """
    found = []
    for _, header, body in recording.messages(since_s=since_s, kinds=["event"], newest_first=True):
        if isinstance(body, Event) and _is_news(header, body, shown):
            found.append(_values(header.sent_at_s, header, body))
        if len(found) == limit:
            break
    return found[::-1]


def _is_news(header: Header, event: Event, shown: set[str]) -> bool:
    """Return whether the message was not shown before; from now on it was."""
    identifier = message_id(event.topic, header)
    is_news = identifier not in shown
    shown.add(identifier)
    return is_news


def _values(at_s: float, header: Header, event: Event) -> dict[str, Any]:
    return {
        "at": datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds"),
        "source": header.source,
        "cause": header.cause,
        **event.model_dump(),
    }


def _print(event: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(event, ensure_ascii=False), flush=True)
        return
    local = datetime.fromisoformat(event["at"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    about = event["domain"] or event["group"] or event["host"] or event["source"]
    print(f"{local}  {event['name']:<16} {about:<12} {event['text']}", flush=True)


def _warn(text: str) -> None:
    import sys

    print(f"autoscaler: {text}", file=sys.stderr)


def _follow(config: Config, clock: Clock, shown: set[str], why_silent: Callable[[], str], *, as_json: bool) -> None:
    bus = Bus.open(config, "operator", clock, publishes=False)
    try:
        for service in config.services:
            bus.subscribe(service, "event", "service")  # the second one to know that somebody is there
        heard = bus.receive(ANSWER_S).messages
        if not heard:
            _warn(f"{why_silent()}; waiting for events")
        while True:
            for received in heard:
                if isinstance(received.body, Event) and _is_news(received.header, received.body, shown):
                    _print(_values(received.header.sent_at_s, received.header, received.body), as_json=as_json)
            heard = bus.receive(3600.0).messages
    finally:
        bus.close()
