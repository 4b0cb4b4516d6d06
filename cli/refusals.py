"""What the system refuses a command, as one sentence: the file or program, and the reason."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import AutoscalerError


@contextmanager
def told() -> Iterator[None]:
    """Turn an error of the operating system into one that the operator can act on.

    Raises:
        AutoscalerError: a file cannot be used, or a program is missing; the message names it.
    """
    try:
        yield
    except BrokenPipeError:
        raise  # nobody reads what the command prints: that is no fault of a file
    except OSError as error:
        what = f"{error.filename} cannot be used: " if error.filename else ""
        raise AutoscalerError(f"{what}{error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """Write the file; where the disk is full, the error names it too.

    Raises:
        AutoscalerError: it cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise AutoscalerError(f"{path} cannot be written: {error.strerror}") from error
