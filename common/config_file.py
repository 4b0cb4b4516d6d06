"""Reading ``autoscaler.toml``: the whole file is checked before anything acts on it.

A variable of the environment beats the file, the file beats the default (``common.config_environment``). An error is
one line: file and line, or variable; key, what is allowed, the value that was found.
"""

import hashlib
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from common import in_force
from common.config import Config
from common.config_environment import Override, override, overriding
from common.config_schema import keys_at, shown, unknown_key, without_tags
from common.errors import ConfigError

DEFAULT: Final = "default"
"""The origin of a value that neither the file nor the environment sets."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The checked configuration, the digest of all it came from, and that itself: the file's text, the variables.

    ``source`` is what it takes to have it again, whatever becomes of the file.
    """

    config: Config
    digest: str
    text: str
    overrides: tuple[Override, ...]
    source: in_force.InForce

    def origin(self, path: tuple[int | str, ...], name: str) -> str:
        """Return where the key at ``path`` gets its value: a variable, ``name`` with a line, or its default."""
        variable = next((o.variable for o in self.overrides if o.path == path[: len(o.path)]), None)
        if variable is not None:
            return variable
        line = _line_of(path, self.text, is_value=True)
        return DEFAULT if line is None else f"{name}:{line}"


def load(path: Path, environ: Mapping[str, str] = os.environ) -> tuple[Config, str]:
    """Return the checked configuration and the digest of what it came from: the file, and variables that set keys.

    Raises:
        ConfigError: the file cannot be read, is not TOML, has an unknown key, a wrong type or an impossible value; or
            a variable has.
    """
    loaded = read(path, environ)
    return loaded.config, loaded.digest


def read(path: Path, environ: Mapping[str, str] = os.environ) -> Loaded:
    """Return what the file and the environment say, and how they say it.

    Of a configuration that is kept in force (``common.in_force``), the variables are those that it was taken over with.

    Raises:
        ConfigError: as ``load``.
    """
    if in_force.is_place(path):
        source = in_force.read(path)
    else:
        try:
            source = in_force.InForce(path, path.read_bytes(), overriding(environ))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    text, values = _tables(source.raw, str(path))
    overrides = override(values, source.variables if in_force.is_place(path) else environ)
    config = _checked(values, str(path), text, overrides)
    return Loaded(config, _digest(source.raw, source.variables), text, overrides, source)


def parse(raw: bytes, name: str) -> Config:
    """Return the configuration that the bytes of the file ``name`` describe, whatever the environment sets.

    Raises:
        ConfigError: as ``load``.
    """
    text, values = _tables(raw, name)
    return _checked(values, name, text, ())


def _tables(raw: bytes, name: str) -> tuple[str, dict[str, Any]]:
    try:
        text = raw.decode("utf-8-sig")  # some editors begin a file with a byte order mark
        return text, tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: not UTF-8 at byte {error.start}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: not valid TOML: {error}") from error


def _checked(values: dict[str, Any], name: str, text: str, overrides: Sequence[Override]) -> Config:
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        faults = error.errors()
        own = [fault for fault in faults if not _is_shadow(fault, faults)]
        raise ConfigError("\n".join(_explain(fault, name, text, overrides) for fault in own)) from error


def _digest(raw: bytes, variables: Mapping[str, str]) -> str:
    """Return what tells one configuration from another; without variables, what ``sha256sum`` says of the file."""
    told = "".join(f"\0{name}={value}" for name, value in variables.items())
    return hashlib.sha256(raw + told.encode()).hexdigest()[:12]


def _is_shadow(fault: ErrorDetails, faults: list[ErrorDetails]) -> bool:
    """Return whether the fault only follows from one further down: a list that lost its faulty entry."""
    depth = len(fault["loc"])
    return fault["type"] == "too_short" and any(
        len(other["loc"]) > depth and other["loc"][:depth] == fault["loc"] for other in faults
    )


def _explain(details: ErrorDetails, name: str, text: str, overrides: Sequence[Override]) -> str:
    """Return one line for one fault: file and line, or variable; key, what is allowed, what was found."""
    path = without_tags(details["loc"])
    key = ".".join(str(part) for part in path)
    line = _line_of(path, text)
    where = f"{name}:{line}" if line else name
    around = path[:-1] if details["type"] == "missing" else path  # whoever sets one key of a table makes the table
    involved = [o.variable for o in overrides if o.path[: len(around)] == around]
    setter = next((o.variable for o in overrides if path[: len(o.path)] == o.path), "")
    note = f" (with {', '.join(involved)} set)" if involved and not setter else ""
    return f"{setter or where}: {key + ': ' if key else ''}{_reason(details)}{note}"


def _reason(details: ErrorDetails) -> str:
    found, path = details["input"], details["loc"]
    match details["type"]:
        case "extra_forbidden":
            return unknown_key(str(details["loc"][-1]), keys_at(details["loc"][:-1]))
        case "missing":
            return "is required and missing"
        case "value_error":
            text = details["msg"].removeprefix("Value error, ")
            return text if "got " in text or isinstance(found, dict) else f"{text}; got {shown(path, found)}"
        case _:
            return f"{details['msg'][0].lower()}{details['msg'][1:]}; got {shown(path, found)}"


def _line_of(path: tuple[int | str, ...], text: str, *, is_value: bool = False) -> int | None:
    """Return the line of the deepest part of ``path`` that the file names, None where it names none.

    A line that names something within that part names it too, where none names it alone: ``[group.web]`` for ``group``.
    ``is_value``: only a line that sets the key, or a table within a line around it, and not the header of its table.
    """
    table: tuple[int | str, ...] = ()
    entries: dict[tuple[int | str, ...], int] = {}
    best, best_depth = None, (0, False)
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*(\[\[?)\s*([^\]]+?)\s*\]", line)
        if header:
            table = here = _table_path(header[2], entries, is_entry=header[1] == "[[")
        else:
            key = re.match(r'\s*([A-Za-z0-9_."-]+)\s*=', line)
            if not key:
                continue
            here = table + tuple(part.strip('"') for part in key[1].split("."))
        if is_value and (header or len(here) > len(path)):
            continue
        depth = min(len(here), len(path)), len(here) <= len(path)
        if here[: depth[0]] == path[: depth[0]] and depth > best_depth:
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
