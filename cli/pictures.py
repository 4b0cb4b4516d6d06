"""The names of pictures, checked before the work that they show."""

from pathlib import Path

from common.errors import ConfigError


def check_png(path: Path) -> None:
    """Refuse a name that is no picture.

    Raises:
        ConfigError: it ends in something else.
    """
    if path.suffix.lower() not in (".png", ".svg"):
        raise ConfigError(f"the name of a picture must end in .png or .svg; got {path.name!r}")
