"""``python -m services.exporter --config FILE``."""

from common.process import main
from services.exporter.shell import ExporterService

if __name__ == "__main__":
    raise SystemExit(main("exporter", ExporterService))
