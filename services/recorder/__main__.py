"""``python -m services.recorder --config FILE``."""

from common.process import main
from services.recorder.shell import RecorderService

if __name__ == "__main__":
    raise SystemExit(main("recorder", RecorderService))
