"""Text from outside, made plain where it enters: one line that a terminal, XML and a log can show, of bounded length.

A guest's answer, a client's request, a file or libvirt may hold control characters (a terminal obeys them, XML refuses
them), bidirectional controls (what is read is not what is written), halves of surrogate pairs (no UTF-8) and a million
characters. Behind the door nobody needs to think of that. White space becomes one space, all else that cannot be
printed U+FFFD: it stays visible that something was there, and no hostile text becomes a good name by being cleaned.
"""

from collections.abc import Mapping
from typing import Any, Final

MAX_NAME: Final = 256  # of a domain, a host, a group; libvirt allows a domain 255 bytes or less
MAX_LINE: Final = 2000  # what is told to people
MAX_LINES: Final = 200
MAX_DEPTH: Final = 16
_REPLACED: Final = "\ufffd"
_CUT: Final = "…"


def plain(text: str, most: int = MAX_LINE) -> str:
    """Return the text as one printable line of at most ``most`` characters.

    >>> plain("web\\r\\n  \\x1b[2Jgone"), plain("x" * 9, most=4), plain("\\ud800\\u202e\\x9b")
    ('web \ufffd[2Jgone', 'xxx…', '\ufffd\ufffd\ufffd')
    """
    if not text.isprintable():
        text = " ".join("".join(map(_shown, text[: 4 * most])).split())
    return text if len(text) <= most else text[: most - 1] + _CUT


def plain_text(text: str, most: int = MAX_LINE) -> str:
    """Return the text with its lines kept, each one plain, at most ``MAX_LINES`` of them.

    >>> plain_text("one\\n\\x1btwo\\r\\n")
    'one\\n�two'
    """
    return "\n".join(plain(line, most) for line in text.split("\n", MAX_LINES)[:MAX_LINES]).strip("\n")


def plain_name(text: str) -> str:
    """Return ``plain`` with the length of a name."""
    return plain(text, MAX_NAME)


def plain_names(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return a column of names, each one plain; quickly where all are."""
    if "".join(texts).isprintable() and max(map(len, texts), default=0) <= MAX_NAME:
        return texts
    return tuple(plain_name(text) for text in texts)


def plain_values(value: Any, most: int = MAX_LINE, depth: int = MAX_DEPTH) -> Any:
    """Return plain data with every text in it, keys too, made plain; what is nested deeper than ``depth`` is left out.

    >>> plain_values({"a\\n": ["\\x1b", 1, None]})
    {'a': ['\ufffd', 1, None]}
    """
    if isinstance(value, str):
        return plain(value, most)
    if isinstance(value, Mapping):
        inner = value.items() if depth else ()
        return {plain_values(key, most, 0): plain_values(each, most, depth - 1) for key, each in inner}
    if isinstance(value, list | tuple):
        return type(value)(plain_values(each, most, depth - 1) for each in value) if depth else type(value)()
    return value


def _shown(letter: str) -> str:
    return letter if letter.isprintable() else " " if letter.isspace() else _REPLACED
