"""``python -m services.decider``: the service; ``--forget-capacity``: the end of what it decided.

What each needs is loaded when it is asked for: a second copy of the service ends before it is.
"""

import sys
from collections.abc import Sequence
from typing import Final

from common.process import Context, Service, main

FORGET: Final = "--forget-capacity"


def build(context: Context) -> Service:
    """Return the service; its lock is held."""
    from services.decider.shell import DeciderService

    return DeciderService(context)


def run(argv: Sequence[str]) -> int:
    """Return the exit code of the service, or of forgetting what was decided."""
    if FORGET in argv:
        from services.decider import forget

        return forget.main(argv)
    return main("decider", build, argv)


if __name__ == "__main__":
    raise SystemExit(run(sys.argv[1:]))
