"""``python -m services.actuator``: the service, or with ``--remove-…`` the end of what it made."""

import sys

from common.process import main
from services.actuator import cleanup
from services.actuator.shell import ActuatorService

if __name__ == "__main__":
    if cleanup.is_asked_for(sys.argv[1:]):
        raise SystemExit(cleanup.main(sys.argv[1:]))
    raise SystemExit(main("actuator", ActuatorService))
