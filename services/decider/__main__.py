"""``python -m services.decider``: the service, or with ``--forget-capacity`` the end of what it decided."""

import sys

from common.process import main
from services.decider import forget
from services.decider.shell import DeciderService

if __name__ == "__main__":
    if forget.is_asked_for(sys.argv[1:]):
        raise SystemExit(forget.main(sys.argv[1:]))
    raise SystemExit(main("decider", DeciderService))
