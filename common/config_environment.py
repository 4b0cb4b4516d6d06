"""Keys of ``autoscaler.toml`` set by environment variables: ``AUTOSCALER_GROUPS__WEB__MAX=6`` is ``groups.web.max``.

Two underscores part the tables; letters are small in the file and capital here; an entry of a list goes by its number,
from 0; ``-`` in a name is written ``_``. A value is written as in the file, text without its quotes. A variable without
two underscores in it is not ours to read; one that begins like a table of the file is refused: it was meant.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from common.config import Config
from common.config_places import VARIABLE
from common.config_schema import Path_, fields, inside, is_text, shown, table_for, unknown_key
from common.errors import ConfigError

PREFIX: Final = "AUTOSCALER_"


@dataclass(frozen=True, slots=True)
class Override:
    """One key that a variable sets."""

    variable: str
    path: Path_
    value: Any


def overriding(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that set a key, by name in order.

    >>> overriding({"AUTOSCALER_CONFIG": "a.toml", "AUTOSCALER_SYSTEM__INTERVAL_S": "2", "HOME": "/root"})
    {'AUTOSCALER_SYSTEM__INTERVAL_S': '2'}
    """
    return {name: environ[name] for name in sorted(environ) if name.startswith(PREFIX) and "__" in name[len(PREFIX) :]}


def unread(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the variables that begin like ours and that nothing reads.

    >>> unread({"AUTOSCALER_CONFIG": "a.toml", "AUTOSCALER_MAX": "2", "AUTOSCALER_SYSTEM__INTERVAL_S": "2"})
    ('AUTOSCALER_MAX',)
    """
    known = {VARIABLE, *overriding(environ)}
    return tuple(name for name in sorted(environ) if name.startswith(PREFIX) and name not in known)


def override(values: dict[str, Any], environ: Mapping[str, str]) -> tuple[Override, ...]:
    """Set in ``values``, the tables of the file, what the environment sets; return what that is.

    Raises:
        ConfigError: a variable names no key, or seems to be meant to.
    """
    for name in unread(environ):
        table = name[len(PREFIX) :].partition("_")[0]
        if table.lower() in Config.model_fields:
            raise ConfigError(f"{name} sets no key: two underscores part tables and keys, as in {PREFIX}{table}__KEY")
    variables = overriding(environ)
    # A policy's type decides which keys it may have, so that comes first.
    return tuple(_set(values, name, variables[name]) for name in sorted(variables, key=lambda n: "__TYPE" not in n))


def _set(values: dict[str, Any], variable: str, text: str) -> Override:
    node: Any = values
    annotation: Any = Config
    path: Path_ = ()
    *tables, last = variable[len(PREFIX) :].split("__")
    for part in tables:
        key, annotation = _key(node, annotation, part, variable, path)
        path = (*path, key)
        node = _enter(node, key, annotation, f"{variable}: {_dotted(path)}", path)
    key, annotation = _key(node, annotation, last, variable, path)
    value = _value(text, annotation)
    _put(node, key, value)
    return Override(variable, (*path, key), value)


def _key(node: Any, annotation: Any, part: str, variable: str, path: Path_) -> tuple[int | str, Any]:
    """Return the key that ``part`` names in ``node``, and the annotation of its value."""
    way, below = inside(annotation)
    if way == "numbers":
        if not (part.isascii() and part.isdigit()) or int(part) > len(node):
            raise ConfigError(f"{variable}: {_dotted(path)}: an entry goes by its number, 0..{len(node)}; got {part!r}")
        return int(part), below
    if way == "names":
        return _name(node, part), below
    table = table_for(below, node)
    if table is None:  # a policy of no known type: what is wrong with it is said when all is checked
        return part.lower(), Any
    known, key = fields(table), part.lower()
    if key not in known:
        raise ConfigError(f"{variable}: {_dotted((*path, key))}: {unknown_key(key, sorted(known))}")
    return key, known[key].annotation


def _name(node: dict[str, Any], part: str) -> str:
    """Return the name in the file that is written ``part`` here, or the name of a new table."""
    like = part.lower()
    found = [name for name in node if re.sub(r"[-.]", "_", name.lower()) == like]
    return found[0] if found else like.replace("_", "-")


def _enter(node: Any, key: int | str, annotation: Any, where: str, path: Path_) -> Any:
    """Return the table or list at ``key``, made where the file has none."""
    way, _ = inside(annotation)
    if way == "nothing":
        raise ConfigError(f"{where} is a value, not a table")
    kind: type = list if way == "numbers" else dict
    if isinstance(key, str):
        found = node.setdefault(key, kind())
    else:
        node.extend(kind() for _ in range(key + 1 - len(node)))
        found = node[key]
    if not isinstance(found, kind):
        raise ConfigError(f"{where} is {shown(path, found)} in the file, not a {'list' if kind is list else 'table'}")
    return found


def _put(node: Any, key: int | str, value: Any) -> None:
    if isinstance(key, int) and key == len(node):
        node.append(value)
    else:
        node[key] = value


def _value(text: str, annotation: Any) -> Any:
    if is_text(annotation):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # pydantic says what is allowed instead


def _dotted(path: Path_) -> str:
    return ".".join(str(part) for part in path)
