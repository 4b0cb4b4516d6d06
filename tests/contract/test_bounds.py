"""Every figure, text and collection of every message has bounds: the classes are walked, so a new field is found."""

import math
from collections.abc import Iterator, Mapping
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import annotated_types as at
import pytest
from pydantic import AfterValidator, BaseModel, ValidationError
from pydantic.fields import FieldInfo

from common import messages
from common.errors import ProtocolError
from common.messages import BODIES, Frozen, Header, Plain, Reply, Request
from common.plain import MAX_LINE, plain, plain_names, plain_values
from common.wire import decode
from tests.contract.test_messages import EXAMPLES, frames, frames_with_header

HOSTILE = "\x01\x1b[2J\x9b31m\u202egnp\ud800\r\n" + "x" * 10_000
PACKABLE = HOSTILE.replace("\ud800", "")  # MessagePack holds UTF-8
ABSURD = (math.nan, math.inf, -math.inf, 1e21, 1e300, -1e300, 10**30, -(10**30))
Where = tuple[str, ...]


def leaves(annotation: Any, marks: tuple[Any, ...], where: Where) -> Iterator[tuple[Where, Any, tuple[Any, ...]]]:
    """Yield each plain type or collection within an annotation, with the marks that bound it."""
    origin = get_origin(annotation)
    if origin is Annotated:
        base, *own = get_args(annotation)
        flat = [mark for each in own for mark in (each.metadata if isinstance(each, FieldInfo) else [each])]
        yield from leaves(base, (*marks, *flat), where)
    elif origin in (Union, UnionType):
        for part in get_args(annotation):
            yield from leaves(part, marks, where)
    elif origin in (tuple, dict):
        is_fixed = origin is tuple and Ellipsis not in get_args(annotation)
        yield where, origin, (*marks, at.MaxLen(len(get_args(annotation)))) if is_fixed else marks
        is_bounded_whole = any(isinstance(m, AfterValidator) and m.func is not None for m in marks)
        for part in get_args(annotation):
            if part not in (Ellipsis, Any) and not is_bounded_whole:
                yield from leaves(part, (), (*where, "[]"))
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from fields(annotation, where)
    else:
        yield where, annotation, marks


def fields(model: type[BaseModel], where: Where = ()) -> Iterator[tuple[Where, Any, tuple[Any, ...]]]:
    for name, info in model.model_fields.items():
        yield from leaves(info.annotation, tuple(info.metadata), (*where, name))


def fault(kind: Any, marks: tuple[Any, ...]) -> str:
    """Return what bound is missing, empty if none is."""
    if kind in (bool, NoneType) or (isinstance(kind, type) and issubclass(kind, Enum)):
        return ""
    validators = [mark.func for mark in marks if isinstance(mark, AfterValidator)]
    if kind in (int, float):
        is_low = any(isinstance(mark, at.Ge | at.Gt) for mark in marks)
        return "" if is_low and any(isinstance(mark, at.Le | at.Lt) for mark in marks) else "no lower or upper bound"
    if kind is str:
        return "" if any(isinstance(each, Plain) for each in validators) else "not made plain"
    if kind in (tuple, dict):
        return "" if any(isinstance(mark, at.MaxLen) for mark in marks) else "no maximal size"
    return f"a type that nothing is known about: {kind}"


@pytest.mark.parametrize("model", [Header, *BODIES, Request, Reply], ids=lambda model: model.__name__)
def test_every_field_is_bounded(model: type[Frozen]) -> None:
    found = list(fields(model))
    assert found
    assert [(".".join(where), fault(kind, marks)) for where, kind, marks in found if fault(kind, marks)] == []


def test_the_walk_finds_what_has_no_bounds() -> None:
    class Careless(Frozen):
        count: int
        names: tuple[str, ...]
        of: Annotated[float, at.Ge(0)] | None

    assert [fault(kind, marks) for _, kind, marks in fields(Careless)] == [
        "no lower or upper bound", "no maximal size", "not made plain", "no lower or upper bound", "",
    ]  # fmt: skip


def numeric(model: type[BaseModel]) -> list[str]:
    return [where[0] for where, kind, _ in fields(model) if len(where) == 1 and kind in (int, float)]


@pytest.mark.parametrize("value", ABSURD)
@pytest.mark.parametrize("body", EXAMPLES.values(), ids=lambda body: body.kind)
def test_no_absurd_figure_gets_through(body: messages.Body, value: float) -> None:
    for name in numeric(type(body)):
        if isinstance(value, int):  # MessagePack itself ends at 64 bits
            with pytest.raises(ValidationError):
                type(body).model_validate(body.model_dump() | {name: value})
        else:
            with pytest.raises(ProtocolError, match=rf"{body.topic}: {name}"):
                decode(frames(body, **{name: value}))


@pytest.mark.parametrize("value", [math.nan, -1.0, 1e300])
def test_no_absurd_clock_gets_through(value: float) -> None:
    with pytest.raises(ProtocolError, match="sent_at_s"):
        decode(frames_with_header(sent_at_s=value))


@pytest.mark.parametrize("changes", [{"queue": -5}, {"request_rate": 1e21}, {"in_flights": (-1,)}, {"error_rate": -1}])
def test_impossible_traffic_is_refused(changes: Mapping[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        decode(frames(EXAMPLES[messages.Traffic], **changes))


def test_a_text_is_made_plain_and_cut() -> None:
    event = messages.Event(name="x", text=HOSTILE, domain=HOSTILE)
    assert event.text.isprintable() and len(event.text) == MAX_LINE
    assert event.domain.isprintable() and len(event.domain) == 256


def test_a_reply_keeps_its_lines_and_nothing_else() -> None:
    reply = Reply(status="refused", reason="a: 1\nb: \x1b[2J", data={"\x1b": {"deep": ["\x9b"]}})
    assert reply.reason == "a: 1\nb: \ufffd[2J"
    assert reply.data == {"\ufffd": {"deep": ["\ufffd"]}}


def test_what_is_plain_stays_as_it_is_and_plain_is_idempotent() -> None:
    for text in ("web-0001", "größer als 5 %", "", "x" * MAX_LINE):
        assert plain(text) == text
    assert plain(plain(HOSTILE)) == plain(HOSTILE)
    assert plain_names(("a", "b\x1b")) == ("a", "b\ufffd")
    nested: Any = "x"
    for _ in range(50):
        nested = [nested]
    assert plain_values(nested) is not None


def test_an_error_about_a_hostile_message_is_short_and_plain() -> None:
    event = EXAMPLES[messages.Event]
    long = "event." + "x" * 50_000
    for hostile in (
        [long.encode(), frames(event)[1]],
        [b"event.\x1b[2J", frames(event)[1]],
        frames(event, name=PACKABLE),
    ):
        with pytest.raises(ProtocolError) as raised:
            decode(hostile)
        assert len(str(raised.value)) < 1000 and str(raised.value).isprintable()
