"""``python -m services.exporter --config FILE``."""

from common.process import Context, Service, main


def build(context: Context) -> Service:
    """Return the service; it is loaded with its lock held, so that a second copy ends before it is."""
    from services.exporter.shell import ExporterService

    return ExporterService(context)


if __name__ == "__main__":
    raise SystemExit(main("exporter", build))
