"""``python -m services.notifier --config FILE``."""

from common.process import Context, Service, main


def build(context: Context) -> Service:
    """Return the service; it is loaded with its lock held, so that a second copy ends before it is."""
    from services.notifier.shell import NotifierService

    return NotifierService(context)


if __name__ == "__main__":
    raise SystemExit(main("notifier", build))
