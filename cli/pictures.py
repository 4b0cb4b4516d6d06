"""The names of pictures, checked before the work that they show."""

from pathlib import Path

from common.errors import AutoscalerError


def check_png(path: Path) -> None:
    """Refuse a name that is no picture.

    Raises:
        AutoscalerError: it ends in something else.
    """
    if path.suffix.lower() not in (".png", ".svg"):
        raise AutoscalerError(f"the name of a picture must end in .png or .svg; got {path.name!r}")
