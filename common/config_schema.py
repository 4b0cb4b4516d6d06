"""What keys a table of ``autoscaler.toml`` may have, asked by path: for refusals that say what is allowed."""

import difflib
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from common.config import Config, Predictive, Schedule, Step, Table, TargetTracking, Threshold
from common.config_table import SECRET

Path_ = tuple[int | str, ...]
POLICY_TABLES: Final[dict[str, type[Table]]] = {
    "threshold": Threshold,
    "target-tracking": TargetTracking,
    "step": Step,
    "schedule": Schedule,
    "predictive": Predictive,
}


def fields(table: type[Table]) -> dict[str, FieldInfo]:
    """Return the fields of a table by the key that stands in the file."""
    return {field.alias or key: field for key, field in table.model_fields.items()}


def table_in(annotation: Any) -> type[Table] | None:
    """Return the first table that an annotation speaks of, None where it speaks of none."""
    if isinstance(annotation, type) and issubclass(annotation, Table):
        return annotation
    for argument in get_args(annotation):
        found = table_in(argument)
        if found is not None:
            return found
    return None


def is_text(annotation: Any) -> bool:
    """Return whether a value of this annotation is text and nothing else.

    >>> is_text(str), is_text(Literal["on", "off"]), is_text(str | None), is_text(int | str), is_text(bool)
    (True, True, True, False, False)
    """
    if annotation is str or annotation is type(None):
        return True
    if get_origin(annotation) is Literal:
        return all(isinstance(value, str) for value in get_args(annotation))
    if get_origin(annotation) is Annotated:
        return is_text(get_args(annotation)[0])
    return get_origin(annotation) in (Union, UnionType) and all(map(is_text, get_args(annotation)))


def inside(annotation: Any) -> tuple[str, Any]:
    """Return how one goes on below a value of this annotation, and the annotation of what is there.

    ``keys`` of the table that comes along; ``names`` where they are free; ``numbers`` of a list; else ``nothing``.
    """
    bare = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    if isinstance(bare, type) and issubclass(bare, Table):
        return "keys", bare
    if get_origin(bare) is dict:
        return "names", get_args(bare)[1]
    if get_origin(bare) is tuple:
        return "numbers", get_args(bare)[0]
    if table_in(bare) is not None:
        return "keys", bare
    return "nothing", None


def table_for(annotation: Any, node: Mapping[str, Any]) -> type[Table] | None:
    """Return the table that ``node`` is: of a policy, by the type that stands in it; None where that is not known."""
    if Threshold in get_args(annotation):
        return POLICY_TABLES.get(str(node.get("type")))
    return table_in(annotation)


def without_tags(path: Path_) -> Path_:
    """Return the path of a fault as it stands in the file: pydantic puts a policy's type after its number.

    >>> without_tags(("groups", "step", "policies", 0, "step", "mode"))
    ('groups', 'step', 'policies', 0, 'mode')
    """
    return tuple(
        part for at, part in enumerate(path) if not (part in POLICY_TABLES and at > 0 and isinstance(path[at - 1], int))
    )


def keys_at(path: Sequence[int | str]) -> list[str]:
    """Return the keys that the table at ``path`` may have; a policy's type stands in it where it has decided."""
    table: type[Table] = Config
    for at, part in enumerate(path):
        if isinstance(part, int):
            continue
        if part in POLICY_TABLES and at > 0 and isinstance(path[at - 1], int):
            table = POLICY_TABLES[part]
            continue
        field = fields(table).get(part)
        if field is None:
            continue
        found = table_in(field.annotation)
        if found is None:
            return []
        table = found
    return sorted(fields(table))


def is_secret(path: Sequence[int | str]) -> bool:
    """Return whether what stands at ``path`` is secret, or holds what is; an unknown key beside a secret may be one.

    >>> is_secret(("notifications", 0, "url")), is_secret(("notifications", 0)), is_secret(("system", "run_dir"))
    (True, True, False)
    """
    table: type[Table] = Config
    is_name = False  # of one of many tables, such as a group's
    for part in path:
        if isinstance(part, int) or is_name:
            is_name = False
            continue
        field = fields(table).get(part)
        if field is None:
            return table is not Config and _holds_secret(table)
        if SECRET in field.metadata:
            return True
        found = table_in(field.annotation)
        if found is None:
            return False
        table, is_name = found, inside(field.annotation)[0] == "names"
    return _holds_secret(table)


def shown(path: Sequence[int | str], value: Any) -> str:
    """Return a value for people, without what is secret.

    >>> shown(("system", "run_dir"), "/run/x"), shown(("notifications", 0, "url"), "ftp://t0ken@x")
    ("'/run/x'", 'a secret of 13 characters, not shown')
    """
    return concealed(value) if is_secret(path) else repr(value)


def concealed(value: Any) -> str:
    """Return what may be said of a secret."""
    if isinstance(value, str):
        return f"a secret of {len(value)} characters, not shown"
    return f"a value of type {type(value).__name__}, not shown: it may hold a secret"


def _holds_secret(table: type[Table]) -> bool:
    below = (table_in(field.annotation) for field in table.model_fields.values() if table is not Config)
    return any(SECRET in field.metadata for field in table.model_fields.values()) or any(
        _holds_secret(each) for each in below if each is not None
    )


def unknown_key(key: str, allowed: Sequence[str]) -> str:
    """Return the words that refuse ``key`` and say what is near it and what is allowed."""
    near = difflib.get_close_matches(key, allowed, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown key{hint} Allowed: {', '.join(allowed)}" if allowed else f"unknown key{hint}"
