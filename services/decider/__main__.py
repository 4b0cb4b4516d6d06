"""``python -m services.decider --config FILE``."""

from common.process import main
from services.decider.shell import DeciderService

if __name__ == "__main__":
    raise SystemExit(main("decider", DeciderService))
