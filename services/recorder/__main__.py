"""``python -m services.recorder --config FILE``."""

from common.process import Context, Service, main


def build(context: Context) -> Service:
    """Return the service; it is loaded with its lock held, so that a second copy ends before it is."""
    from services.recorder.shell import RecorderService

    return RecorderService(context)


if __name__ == "__main__":
    raise SystemExit(main("recorder", build))
