"""``autoscaler config``: what is in force, and where each value comes from."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.clock_changes import uneven_windows
from common.clock import SystemClock
from common.config import Config
from common.config_defaults import DEFAULTS, SYSTEMD_STOP_S, Booted, differing
from common.config_environment import unread
from common.config_file import DEFAULT, Loaded, read
from common.config_schema import Path_, concealed, is_secret
from common.errors import ConfigError
from services.actuator.image_check import written_faults
from services.notifier.senders import file_trouble


@dataclass(frozen=True, slots=True)
class Setting:
    """One key: its value in force, and where that comes from; ``default_for``: whose default it is, where not all's."""

    path: Path_
    value: Any
    origin: str
    default_for: str = ""

    @property
    def key(self) -> str:
        """Return the key as it is written below the tables of the file."""
        return ".".join(str(part) for part in self.path)

    def values(self) -> dict[str, Any]:
        """Return what ``config show --json`` prints of it."""
        return {"key": self.key, "value": self.value, "from": self.origin, "default_for": self.default_for}

    @property
    def comment(self) -> str:
        """Return where it comes from, in words."""
        return f"default for {self.default_for}" if self.default_for else self.origin


@dataclass(frozen=True, slots=True)
class Checked:
    """A configuration with which all is well; ``unread`` are variables that look like ours and set nothing.

    ``notes``: what is allowed, and will not work, or not as in the release before.
    """

    path: Path
    groups: tuple[str, ...]
    digest: str
    variables: tuple[str, ...]
    unread: tuple[str, ...]
    notes: tuple[str, ...]

    def text(self) -> str:
        """Return what ``config check`` prints."""
        note = f"; set by the environment: {', '.join(self.variables)}" if self.variables else ""
        note += f"; not read: {', '.join(self.unread)}" if self.unread else ""
        line = f"{self.path}: ok; groups {', '.join(self.groups)}; digest {self.digest}{note}"
        return "\n".join([line, *(f"note: {trouble}" for trouble in self.notes)])

    def values(self) -> dict[str, Any]:
        """Return what ``config check --json`` prints."""
        return {
            "path": str(self.path),
            "groups": list(self.groups),
            "digest": self.digest,
            "variables": list(self.variables),
            "unread": list(self.unread),
            "notes": list(self.notes),
        }


def check(path: Path, environ: Mapping[str, str] = os.environ, now_s: float | None = None) -> Checked:
    """Return what is to be said of a good configuration at ``now_s``, epoch seconds; by default now.

    Raises:
        ConfigError: it is none.
    """
    loaded = read(path, environ)
    variables = tuple(override.variable for override in loaded.overrides)
    now_s = SystemClock().epoch_s() if now_s is None else now_s
    config = loaded.config
    if faults := written_faults(config):
        raise ConfigError("\n".join(f"{path}: {fault}" for fault in faults))
    notes = (
        *unready_receivers(config), *same_addresses(config), *changed_defaults(loaded), *changed_retries(config),
        *short_stops(config), *uneven_windows(config, now_s), *left_to_libvirt(config),
    )  # fmt: skip
    return Checked(path, tuple(loaded.config.groups), loaded.digest, variables, unread(environ), notes)


def unready_receivers(config: Config) -> list[str]:
    """Return what is wrong with the secrets and programs of notifications, by their place in the file."""
    troubles = [(number, file_trouble(told)) for number, told in enumerate(config.notifications)]
    return [f"notifications.{number}: {trouble}" for number, trouble in troubles if trouble]


def left_to_libvirt(config: Config) -> list[str]:
    """Return what was not looked at, because only libvirt can judge it: ``up`` asks it, before it starts anything."""
    found = []
    for name, group in config.groups.items():
        parts = ["the disk image"] if group.image.disk else []
        parts += ["the definition with xml merged in"] if group.image.xml else []
        if group.kind == "template" and parts:
            found.append(f"groups.{name}.image: not checked, for only libvirt can judge it: {' and '.join(parts)}")
    return found


def changed_defaults(loaded: Loaded) -> list[str]:
    """Return, by group, which defaults in force are others than in release 0.1.0, and what that means for power."""
    notes = []
    for name, group in loaded.config.groups.items():
        open_keys = [found for found in differing(group.booted) if _is_open(loaded, name, found[0])]
        if open_keys:
            told = ", ".join(f"{key} = {_toml(now)} (was {_toml(before)})" for key, now, before in open_keys)
            notes.append(f"groups.{name}: other defaults for {group.booted} than in 0.1.0: {told}{_meaning(open_keys)}")
    return notes


def short_stops(config: Config) -> list[str]:
    """Return the groups of whole operating systems whose power is cut while they may still be shutting down."""
    cutting = {name: group for name, group in config.groups.items() if group.may_cut_power}
    return [
        f"groups.{name}.stop_timeout_s = {_toml(group.stop_timeout_s)}: an operating system may need longer "
        f"(systemd gives each of its services {SYSTEMD_STOP_S:g} s), and its power is cut then"
        for name, group in cutting.items()
        if group.booted is not Booted.KERNEL and group.stop_timeout_s < SYSTEMD_STOP_S
    ]


def changed_retries(config: Config) -> list[str]:
    """Return the groups whose late requests go elsewhere no more, as they did with 0.1.0, for the file says nothing."""
    return [
        f"groups.{name}: a request whose answer is late is no longer sent to another domain; "
        'retry = "response-timeout" sends it to up to three others, as before'
        for name, group in config.groups.items()
        if group.protocol == "http" and group.retry is None
    ]


def _is_open(loaded: Loaded, name: str, key: str) -> bool:
    return loaded.origin(("groups", name, *key.split(".")), "") == DEFAULT


def _meaning(open_keys: list[tuple[str, Any, Any]]) -> str:
    is_kept = any(key == "power_off" for key, _, _ in open_keys)
    return "; a domain that does not shut down is asked again and again" if is_kept else ""


def same_addresses(config: Config) -> list[str]:
    """Return what to say where template domains may run on several hosts: each numbers its slots from 0."""
    hosts = sorted({host for group in config.groups.values() if group.kind == "template" for host in group.hosts})
    if len(hosts) < 2:
        return []
    return [
        f"template domains may run on {', '.join(hosts)}, whose networks {config.network.name} have the same addresses "
        f"({config.network.subnet}): HAProxy cannot tell them apart; let them run on one host"
    ]


def settings(path: Path, prefix: str = "", *, is_default_shown: bool = True) -> list[Setting]:
    """Return every key below ``prefix``, in the order of the classes.

    Raises:
        ConfigError: the configuration is wrong, or has no such key.
    """
    found = [s for s in _settings(read(path), path.name) if f"{s.key}.".startswith(f"{prefix}." if prefix else "")]
    if not found:
        raise ConfigError(f"no key begins with {prefix!r}; see them all: autoscaler config show")
    return [setting for setting in found if is_default_shown or setting.origin != DEFAULT]


def text(found: list[Setting]) -> str:
    """Return the settings as lines of TOML, each with its origin as a comment."""
    lines = [(f"{setting.key} = {_toml(setting.value)}", setting.comment) for setting in found]
    width = min(60, max((len(line) for line, _ in lines), default=0))
    return "\n".join(f"{line:{width}}  # {origin}" for line, origin in lines)


def _settings(loaded: Loaded, name: str) -> Iterator[Setting]:
    values = loaded.config.model_dump(mode="json", by_alias=True, exclude_none=True)
    for path, value in _leaves(values, ()):
        origin = loaded.origin(path, name)
        shown = concealed(value) if value and is_secret(path) else value
        yield Setting(path, shown, origin, _default_for(loaded.config, path) if origin == DEFAULT else "")


def _default_for(config: Config, path: Path_) -> str:
    """Return for whom the default at ``path`` is one, empty where it is the same for all."""
    is_group, key = path[:1] == ("groups",), ".".join(str(part) for part in path[2:])
    return config.groups[str(path[1])].booted.value if is_group and key in DEFAULTS else ""


def _leaves(values: Any, path: Path_) -> Iterator[tuple[Path_, Any]]:
    """Yield what stands at the end of every path; a list is followed where it is one of tables."""
    if isinstance(values, dict) and values:
        for key, value in values.items():
            yield from _leaves(value, (*path, key))
    elif isinstance(values, list) and values and isinstance(values[0], dict):
        for number, value in enumerate(values):
            yield from _leaves(value, (*path, number))
    else:
        yield path, values


def _toml(value: Any) -> str:
    """Return a value as TOML writes it: JSON does it alike, but for tables."""
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)
