"""Structured logs on stderr: one event a line, JSON for machines, ``key=value`` on a terminal.

structlog loads rich wherever it is installed, for colours that no service shows: 4 MB and 0.1 s in every process. So
rich is hidden from it while it loads, and the rest of ``common`` reaches it through ``logger``.
"""

import sys
from dataclasses import dataclass, field
from typing import Any, Final, TextIO, cast

_HIDDEN: Final = "rich" not in sys.modules and "structlog" not in sys.modules
if _HIDDEN:
    cast(dict[str, object], sys.modules)["rich"] = None  # Python's own way to say: cannot be imported

import structlog  # noqa: E402 - after the above

if _HIDDEN:
    del sys.modules["rich"]

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
MAX_QUIET_KEYS: Final = 1000


def logger() -> Any:
    """Return a logger; what structlog itself calls ``get_logger``."""
    return structlog.get_logger()


def configure(service: str, level: str, stream: TextIO | None = None) -> None:
    """Send every log line of this process to ``stream`` (stderr by default), from ``level`` up.

    Args:
        service: the name that each line carries.
        level: debug, info, warning or error.
    """
    out = stream or sys.stderr
    structlog.contextvars.clear_contextvars()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _name_service(service),
            structlog.processors.format_exc_info,
            _plain_line if out.isatty() else structlog.processors.JSONRenderer(default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )


def _name_service(service: str) -> structlog.typing.Processor:
    def add(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event.setdefault("service", service)
        return event

    return add


def _plain_line(_logger: Any, _method: str, event: structlog.typing.EventDict) -> str:
    time, level, name = event.pop("timestamp"), event.pop("level"), event.pop("event")
    service, trace = event.pop("service"), event.pop("exception", None)
    fields = " ".join(f"{key}={_quoted(value)}" for key, value in event.items())
    line = f"{time[11:23]} {level:<7} {service}: {name} {fields}".rstrip()
    return f"{line}\n{trace}" if trace else line


def _quoted(value: object) -> str:
    text = str(value)
    return repr(text) if not text or any(c.isspace() or not c.isprintable() or c in "\"'=" for c in text) else text


@dataclass(slots=True)
class Quiet:
    """Keeps a fault that goes on and on from filling the log: each key is said once a ``period_s``."""

    period_s: float
    _said: dict[object, float] = field(default_factory=dict)

    def may_say(self, key: object, now_s: float) -> bool:
        """Return whether ``key`` is due to be logged, and note that it was."""
        last_s = self._said.get(key)
        if last_s is not None and now_s - last_s < self.period_s:
            return False
        if last_s is None and len(self._said) >= MAX_QUIET_KEYS:
            return False
        self._said[key] = now_s
        return True
