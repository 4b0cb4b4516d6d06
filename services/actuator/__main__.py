"""``python -m services.actuator``: the service; or the end of what it made, or a look at the groups' images.

What each needs is loaded when it is asked for: a second copy of the service ends before it is.
"""

import sys
from collections.abc import Sequence
from typing import Final

from common.process import Context, Service, main

REMOVE: Final = ("--remove-domains", "--remove-everything")
CHECK: Final = "--check-images"


def build(context: Context) -> Service:
    """Return the service; its lock is held."""
    from services.actuator.shell import ActuatorService

    return ActuatorService(context)


def run(argv: Sequence[str]) -> int:
    """Return the exit code of the service, of a clean-up, or of a look at the images."""
    if CHECK in argv:
        from services.actuator import image_check

        return image_check.main(argv)
    if any(argument in REMOVE for argument in argv):
        from services.actuator import cleanup

        return cleanup.main(argv)
    return main("actuator", build, argv)


if __name__ == "__main__":
    raise SystemExit(run(sys.argv[1:]))
