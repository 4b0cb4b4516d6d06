"""What the system refuses a command, as one sentence: the file or program, and the reason."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import AutoscalerError
from common.files import PRIVATE, replace_file


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
    """Replace a file that is its owner's alone; the error names it.

    Raises:
        AutoscalerError: it cannot be written.
    """
    try:
        replace_file(path, text.encode(), mode=PRIVATE, is_durable=False)
    except OSError as error:
        raise AutoscalerError(f"{path} cannot be written: {error.strerror}") from error
