"""``python -m services.monitor``."""

from common.process import main
from services.monitor.shell import MonitorService

raise SystemExit(main("monitor", MonitorService))
