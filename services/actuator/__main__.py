"""``python -m services.actuator``: the service, or with ``--remove-…`` the end of what it made."""

import sys

from common.process import main
from services.actuator import cleanup, image_check
from services.actuator.shell import ActuatorService

if __name__ == "__main__":
    if image_check.is_asked_for(sys.argv[1:]):
        raise SystemExit(image_check.main(sys.argv[1:]))
    if cleanup.is_asked_for(sys.argv[1:]):
        raise SystemExit(cleanup.main(sys.argv[1:]))
    raise SystemExit(main("actuator", ActuatorService))
