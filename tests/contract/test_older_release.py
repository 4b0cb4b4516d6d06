"""Processes of release 0.1.0 beside those of today, as an upgrade runs them for a while."""

from pathlib import Path
from typing import Any

import msgpack
import pytest

from common.messages import BODIES, Body
from common.wire import decode, encode
from tests.contract.test_messages import EXAMPLES, HEADER
from tests.older_release import RECORDED, as_sent_then, recorded, recorded_body

KINDS = sorted(path.stem for path in RECORDED.glob("*.hex"))
TODAY: dict[str, type[Body]] = {body.kind: body for body in BODIES}


def test_every_message_of_that_release_is_still_spoken() -> None:
    assert set(KINDS) <= set(TODAY)
    assert len(KINDS) == 9


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_says_is_understood_with_every_figure_in_its_place(kind: str) -> None:
    body = decode(recorded(kind))[2]
    assert type(body) is TODAY[kind]
    assert missing(recorded_body(kind), msgpack.unpackb(encode(HEADER, body)[1])["body"]) == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_said_today_has_every_field_that_it_knows_as_the_kind_of_value_that_it_knows(kind: str) -> None:
    now = msgpack.unpackb(encode(HEADER, EXAMPLES[TODAY[kind]])[1])["body"]
    assert others(recorded_body(kind), now) == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_would_have_said_of_today_is_understood(kind: str) -> None:
    then = as_sent_then(EXAMPLES[TODAY[kind]])
    assert missing(recorded_body(kind), then.model_dump(mode="json")) == []


def missing(then: Any, now: Any, path: str = "") -> list[str]:
    """Return what stands in ``then`` and not, with the same value, in ``now``."""
    if isinstance(then, dict):
        return [lack for key, value in then.items() for lack in missing(value, (now or {}).get(key), f"{path}.{key}")]
    if isinstance(then, list):
        return [] if len(then) == len(now) and not _lacks(then, now, path) else [path]
    return [] if then == now else [f"{path}: {then!r} became {now!r}"]


def _lacks(then: list[Any], now: list[Any], path: str) -> list[str]:
    return [lack for before, after in zip(then, now, strict=True) for lack in missing(before, after, path)]


def others(then: Any, now: Any, path: str = "") -> list[str]:
    """Return where ``now`` has not a field of ``then``, or another kind of value there."""
    if isinstance(then, dict) and isinstance(now, dict):
        return [
            lack
            for key, value in then.items()
            for lack in (others(value, now[key], f"{path}.{key}") if key in now else [f"{path}.{key}"])
        ]
    if then is None or now is None:
        return []
    is_number = isinstance(then, int | float) and isinstance(now, int | float)
    return [] if is_number or isinstance(now, type(then)) else [path]


def test_the_recorded_bytes_are_those_of_that_release() -> None:
    """Nobody writes them anew: what is in the field does not change."""
    told = (Path(__file__).parent / "golden" / "membership.hex").read_text()
    assert (RECORDED / "membership.hex").read_text() != told
