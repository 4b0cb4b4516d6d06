"""Reading ``autoscaler.toml``: the whole file is checked before anything acts on it.

An error is one line: file, line, key, what is allowed, the value that was found.
"""

import difflib
import hashlib
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from common.config import Config, Predictive, Schedule, Step, Table, TargetTracking, Threshold
from common.errors import ConfigError

DEFAULT_NAME: Final = "autoscaler.toml"


def load(path: Path) -> tuple[Config, str]:
    """Return the checked configuration and the digest of the file it came from.

    Raises:
        ConfigError: the file cannot be read, is not TOML, has an unknown key, a wrong type or an impossible value.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    return parse(raw, str(path)), hashlib.sha256(raw).hexdigest()[:12]


def parse(raw: bytes, name: str) -> Config:
    """Return the configuration that the bytes of the file ``name`` describe.

    Raises:
        ConfigError: as ``load``.
    """
    try:
        text = raw.decode()
        values = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: not UTF-8 at byte {error.start}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: not valid TOML: {error}") from error
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        faults = error.errors()
        own = [fault for fault in faults if not _is_shadow(fault, faults)]
        raise ConfigError("\n".join(_explain(fault, name, text) for fault in own)) from error


def _is_shadow(fault: ErrorDetails, faults: list[ErrorDetails]) -> bool:
    """Return whether the fault only follows from one further down: a list that lost its faulty entry."""
    depth = len(fault["loc"])
    return fault["type"] == "too_short" and any(
        len(other["loc"]) > depth and other["loc"][:depth] == fault["loc"] for other in faults
    )


def _explain(details: ErrorDetails, name: str, text: str) -> str:
    """Return one line for one fault: file, line, key, what is allowed, what was found."""
    path = tuple(part for part in details["loc"] if part not in _POLICY_TAGS)
    key = ".".join(str(part) for part in path)
    line = _line_of(path, text)
    where = f"{name}:{line}" if line else name
    return f"{where}: {key + ': ' if key else ''}{_reason(details)}"


def _reason(details: ErrorDetails) -> str:
    found = details["input"]
    match details["type"]:
        case "extra_forbidden":
            return _unknown_key(details["loc"])
        case "missing":
            return "is required and missing"
        case "value_error":
            text = details["msg"].removeprefix("Value error, ")
            return text if "got " in text or isinstance(found, dict) else f"{text}; got {found!r}"
        case _:
            return f"{details['msg'][0].lower()}{details['msg'][1:]}; got {found!r}"


def _unknown_key(path: tuple[int | str, ...]) -> str:
    allowed = _keys_at(path[:-1])
    near = difflib.get_close_matches(str(path[-1]), allowed, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown key{hint} Allowed: {', '.join(allowed)}" if allowed else f"unknown key{hint}"


def _keys_at(path: Sequence[int | str]) -> list[str]:
    """Return the keys that the table at ``path`` may have; a policy's type stands in it where it has decided."""
    table: type[Table] = Config
    for part in path:
        if isinstance(part, int):
            continue
        if part in _POLICY_TAGS:
            table = _POLICY_TAGS[part]
            continue
        field = next((f for key, f in _fields(table).items() if key == part), None)
        if field is None:
            continue
        found = _table_in(field.annotation)
        if found is None:
            return []
        table = found
    return sorted(_fields(table))


def _fields(table: type[Table]) -> dict[str, Any]:
    return {field.alias or key: field for key, field in table.model_fields.items()}


def _table_in(annotation: Any) -> type[Table] | None:
    if isinstance(annotation, type) and issubclass(annotation, Table):
        return annotation
    for argument in get_args(annotation):
        found = _table_in(argument)
        if found is not None:
            return found
    return None


_POLICY_TAGS: Final[dict[str, type[Table]]] = {
    "threshold": Threshold,
    "target-tracking": TargetTracking,
    "step": Step,
    "schedule": Schedule,
    "predictive": Predictive,
}


def _line_of(path: tuple[int | str, ...], text: str) -> int | None:
    """Return the line of the deepest part of ``path`` that the file names, None where it names none."""
    table: tuple[int | str, ...] = ()
    entries: dict[tuple[int | str, ...], int] = {}
    best, best_depth = None, 0
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*(\[\[?)\s*([^\]]+?)\s*\]", line)
        if header:
            table = here = _table_path(header[2], entries, is_entry=header[1] == "[[")
        else:
            key = re.match(r'\s*([A-Za-z0-9_."-]+)\s*=', line)
            if not key:
                continue
            here = table + tuple(part.strip('"') for part in key[1].split("."))
        depth = len(here)
        if here == path[:depth] and depth > best_depth:
            best, best_depth = number, depth
    return best


def _table_path(name: str, entries: dict[tuple[int | str, ...], int], *, is_entry: bool) -> tuple[int | str, ...]:
    """Return the path of a header, with the number of the entry after each list of tables; counts a new entry."""
    path: tuple[int | str, ...] = ()
    parts = [part.strip().strip('"') for part in name.split(".")]
    for depth, part in enumerate(parts, start=1):
        path = (*path, part)
        if is_entry and depth == len(parts):
            entries[path] = entries.get(path, -1) + 1
        if path in entries:
            path = (*path, entries[path])
    return path
