"""Damage: to bytes, to text, and to plain values. All of it is drawn from one ``Random``: a seed repeats it."""

import copy
import math
from collections.abc import Callable
from random import Random
from typing import Any, Final

TEXTS: Final = (
    "", " ", "\n", "\r", "\x00", "\x01hello", "\x1b[2J\x1b]0;gone\x07", "\x9b31m", "\u202egnp.exe", "\u2066x\u2069",
    "\ud800", "\udfff", "\u2028", "\x85", "\x0b", "\ufeff", "\U000e0001", "é" * 3, "x" * 300, "x" * 5000,
    "../../etc/passwd", "; shutdown", "a,b,\"c", "<member/>", "&lt;", "%s%n", "{}", "nan", "inf", "-1", "1e999", "0x10",
    "\uff11\uff12", "1_000", "null",
    "web", "web-0000", "ready", "draining", "10.0.0.5", "fe80::1%eth0", "::", "999.1.1.1", "local", "*",
)  # fmt: skip
NUMBERS: Final = (
    0, -0.0, 1, -1, -5, 0.5, 1e-300, 5e-324, 65535, 65536, 2**31, 2**53, 2**53 + 1, 2**63 - 1, 2**64 - 1, -(2**63), 1e9,
    1e10, 1e21, 1e300, -1e300, math.nan, math.inf, -math.inf,
)  # fmt: skip
MILD: Final = (0, 1, 2, 3, 0.0, 0.25, 0.999, 1.0, 7.5, 60, 1000, 1e6, 1e9, 1e-9)
MARKS: Final = (
    b"\x00",
    b"\xff",
    b"\n",
    b"\r\n",
    b"\x1b[",
    b'"',
    b",",
    b";",
    b"'",
    b"<",
    b"\xc1",
    b"\xdd\xff\xff\xff\xff",
    b"\xed\xa0\x80",
)


def bytes_of(random: Random, data: bytes, other: bytes = b"") -> bytes:
    """Return the bytes after one to four kinds of damage."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(changed) + 1)
        match random.randrange(7):
            case 0 if changed:
                changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
            case 1:
                del changed[at:]
            case 2:
                changed[at:at] = random.choice(MARKS)
            case 3 if other:
                begin = random.randrange(len(other))
                changed[at : at + random.randrange(64)] = other[begin : begin + random.randrange(64)]
            case 4:
                del changed[at : at + random.randrange(1, 16)]
            case 5:
                changed[at:at] = changed[at : at + random.randrange(1, 64)]
            case _ if changed:
                changed[random.randrange(len(changed))] = random.randrange(256)
    return bytes(changed)


def text_of(random: Random, text: str, other: str = "") -> str:
    """Return the text with something put in, taken out, or in its place."""
    match random.randrange(5):
        case 0:
            return random.choice(TEXTS)
        case 1:
            at = random.randrange(len(text) + 1)
            return text[:at] + random.choice(TEXTS) + text[at:]
        case 2:
            at = random.randrange(len(text) + 1)
            return text[:at] + text[at + random.randrange(1, 9) :]
        case 3:
            words = text.split(" ")
            words[random.randrange(len(words))] = str(random.choice(NUMBERS))
            return " ".join(words)
        case _:
            return bytes_of(random, text.encode(errors="replace"), other.encode(errors="replace")).decode(
                errors="replace"
            )


def values_of(random: Random, values: Any, is_mild: bool) -> Any:
    """Return a copy of plain values with one to three of them replaced; mildly: by some of their own type."""
    changed = copy.deepcopy(values)
    for _ in range(random.randint(1, 3)):
        places = _places(changed)
        if not places:
            break
        holder, key = random.choice(places)
        if is_mild:
            holder[key] = _like(random, holder[key])
            continue
        match random.randrange(8):
            case 0 if isinstance(holder, dict):
                del holder[key]
            case 1:
                holder[key] = _nested(random)
            case 2 if isinstance(holder, list):
                holder[key:key] = [copy.deepcopy(holder[key])] * random.choice((1, 2, 50))
            case 3:
                other_holder, other_key = random.choice(places)
                holder[key] = copy.deepcopy(other_holder[other_key])
            case 4:
                holder[key] = random.choice((None, True, False, [], {}, "", b"\xff"))
            case 5:
                holder[key] = random.choice(NUMBERS)
            case _:
                holder[key] = _hostile(random, holder[key])
    return changed


def listed(value: Any) -> Any:
    """Return plain values with lists for tuples, so that they can be changed."""
    if isinstance(value, dict):
        return {key: listed(each) for key, each in value.items()}
    return [listed(each) for each in value] if isinstance(value, list | tuple) else value


def _places(values: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    rest = [values]
    while rest:
        holder = rest.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        found += [(holder, key) for key in keys]
        rest += [holder[key] for key in keys if isinstance(holder[key], dict | list)]
    return found


def _like(random: Random, value: Any) -> Any:
    """Return another value of the same kind, most of them within what is allowed."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return int(random.choice(MILD))
    if isinstance(value, float):
        return float(random.choice(MILD))
    if isinstance(value, str):
        return random.choice(
            (value, value[::-1], value + "x", random.choice(TEXTS[30:]), f"web-{random.randrange(4):04d}")
        )
    if isinstance(value, list):
        return value[::-1] if random.random() < 0.5 else value + value[:1]
    return value


def _hostile(random: Random, value: Any) -> Any:
    if isinstance(value, str):
        return text_of(random, value).encode(errors="replace").decode()
    if isinstance(value, int | float):
        return random.choice(NUMBERS)
    return random.choice(TEXTS).encode(errors="replace").decode()


def _nested(random: Random) -> Any:
    value: Any = "x"
    for _ in range(random.choice((2, 40, 100))):
        value = [value] if random.random() < 0.5 else {"x": value}
    return value


Damage = Callable[[Random, bytes], bytes]
