"""Which keys a running system takes over, and what is said where a changed file asks for more.

A reload is taken over whole or not at all, and every service decides it from the two configurations alone: so they all
come to the same answer.
"""

from dataclasses import dataclass
from typing import Any, Final

from common.config import Config

LIVE_SYSTEM: Final = frozenset({"log_level"})
LIVE_GROUP: Final = frozenset(
    {
        "min",
        "max",
        "surge",
        "mode",
        "cooldown_out_s",
        "cooldown_in_s",
        "max_step_out",
        "max_step_in",
        "start_timeout_s",
        "boot_timeout_s",
        "drain_timeout_s",
        "max_session_s",
        "stop_timeout_s",
        "power_off",
        "unhealthy_grace_s",
        "keep_failed",
        "warm_up_s",
        "cpu_without_requests",
        "patience_s",
        "patience_memory_s",
        "warm",
        "burst",
        "policies",
    }
)
RESTART: Final = "restart the services for that: make up, or systemctl restart libvirt-autoscaler.target"
_NAMED: Final = ("groups", "hosts")


@dataclass(frozen=True, slots=True)
class Change:
    """One key that differs. ``before`` or ``after`` is None where there is no such table, or no value."""

    path: tuple[str, ...]
    before: Any
    after: Any

    @property
    def is_live(self) -> bool:
        """Return whether a running system can take it over."""
        if self.path[0] == "system":
            return self.path[1] in LIVE_SYSTEM
        return self.path[0] == "groups" and len(self.path) == 3 and self.path[2] in LIVE_GROUP

    @property
    def text(self) -> str:
        """Return the change in words.

        >>> Change(("groups", "web", "max"), 4, 6).text
        'groups.web.max 4 → 6'
        """
        key = ".".join(self.path)
        before, after = ("default" if value is None else value for value in (self.before, self.after))
        if isinstance(self.after if self.before is None else self.before, dict | list):
            what = "is new" if self.before is None else "is gone" if self.after is None else "changed"
            return f"{key} {what}"
        return f"{key} {before} → {after}"


def changes(old: Config, new: Config) -> tuple[Change, ...]:
    """Return every key that differs, in the order of the classes; a list or a table within a table counts as one.

    A host or group that is new or gone is one change, whatever its keys.
    """
    before, after = _keys(old), _keys(new)
    differing = [path for path in dict.fromkeys([*before, *after]) if before.get(path) != after.get(path)]
    return tuple(
        Change(path, before.get(path), after.get(path))
        for path in differing
        if not (len(path) == 3 and path[:2] in differing)
    )


def refusal(found: tuple[Change, ...]) -> str:
    """Return why the changes cannot be taken over while the services run, empty if they can."""
    fixed = [change.text for change in found if not change.is_live]
    return f"cannot change while the services run: {', '.join(fixed)}; {RESTART}" if fixed else ""


def renamed(old: Config, new: Config) -> str:
    """Return why a group cannot be called otherwise while its domains are there, empty if none is."""
    before = {group.prefix: name for name, group in old.groups.items()}
    for name, group in new.groups.items():
        if before.get(group.prefix, name) != name:
            return rename_text(before[group.prefix], name, group.prefix)
    return ""


def rename_text(old: str, new: str, prefix: str) -> str:
    """Return what stands in the way of a renamed group, and the ways round it.

    >>> rename_text("web", "shop", "web-").partition(":")[0]
    'groups.shop has the prefix web- of groups.web'
    """
    return (
        f"groups.{new} has the prefix {prefix} of groups.{old}: a group is not renamed while it has domains, for they "
        f"carry its name; keep the name {old}, or take another prefix, or first: make down with the old file"
    )


def _keys(config: Config) -> dict[tuple[str, ...], Any]:
    """Return each key of each table with its value; a table that has its own name is a key too, with its keys."""
    found: dict[tuple[str, ...], Any] = {}
    for section, tables in config.model_dump(mode="json", by_alias=True).items():
        if section in _NAMED:
            for name, table in tables.items():
                found[(section, name)] = {}
                found |= {(section, name, key): value for key, value in table.items()}
        elif isinstance(tables, dict):
            found |= {(section, key): value for key, value in tables.items()}
        else:
            found[(section,)] = tables
    return found
