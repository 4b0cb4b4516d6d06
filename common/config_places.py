"""Where ``autoscaler.toml`` is looked for."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from common.errors import ConfigError

NAME: Final = "autoscaler.toml"
DIRECTORY: Final = "libvirt-autoscaler"
VARIABLE: Final = "AUTOSCALER_CONFIG"
SYSTEM_PATH: Final = Path("/etc") / DIRECTORY / NAME
ORDER: Final = f"${VARIABLE}, ./{NAME}, $XDG_CONFIG_HOME/{DIRECTORY}/{NAME}, {SYSTEM_PATH}"

HELP: Final = f"default: the first of {ORDER}"


def chosen(named: Path | None, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the file that ``--config`` names, made absolute; without it, the one that ``find`` finds.

    Raises:
        ConfigError: as ``find``.
    """
    return find(environ) if named is None else named.absolute()


def find(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the configuration file to use where none is named: the first that is there, in the order of ``ORDER``.

    One that ``$AUTOSCALER_CONFIG`` names is taken whether it is there or not: reading it will say what is wrong.

    Raises:
        ConfigError: none is there.
    """
    named = environ.get(VARIABLE)
    if named:
        return Path(named).absolute()
    for path in places(environ):
        if path.is_file():
            return path.absolute()
    looked = ", ".join(f"{path}{_why_none(path)}" for path in places(environ))
    raise ConfigError(f"no configuration file at any of {looked}; name one by --config FILE or ${VARIABLE}")


def _why_none(path: Path) -> str:
    """Return why what is at a path is no file, empty where nothing is."""
    if path.is_symlink() and not path.exists():
        return f" (a link to {path.readlink()}, which is not there)"
    return " (it is there, and is not a file)" if path.exists() else ""


def places(environ: Mapping[str, str]) -> Iterator[Path]:
    """Yield where it is looked for, in order, where none is named."""
    yield Path(NAME)
    yield _config_home(environ) / DIRECTORY / NAME
    yield SYSTEM_PATH


def _config_home(environ: Mapping[str, str]) -> Path:
    """Return the user's directory of configurations; a path that is not absolute is to be ignored, XDG says."""
    home = Path(environ.get("XDG_CONFIG_HOME") or "")
    return home if home.is_absolute() else Path(environ.get("HOME") or "~").expanduser() / ".config"
