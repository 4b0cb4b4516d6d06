"""``python -m services.notifier --config FILE``."""

from common.process import main
from services.notifier.shell import NotifierService

if __name__ == "__main__":
    raise SystemExit(main("notifier", NotifierService))
