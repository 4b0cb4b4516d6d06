"""The tables of ``autoscaler.toml`` about what leaves the system: metrics and notifications."""

import re
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from common.config_table import SECRET, Table
from common.endpoint import is_clash, split_endpoint

ALL_EVENTS: Final = "all"
EVENT_CLASSES: Final[dict[str, tuple[str, ...]]] = {
    "scale": ("scale-out", "scale-in", "scale-followed"),
    "failure": (
        *("domain-failed", "domain-recovered", "host-lost", "host-back", "host-fault", "host-fault-over"),
        *("proxy-lost", "proxy-back", "step-failed", "still-suspended", "shutdown-ignored"),
        *("record-unreadable", "service-restarted"),
    ),
    "breaker": ("breaker-opened", "breaker-closed", "replacing-in-vain"),
    "drain": ("drain-started", "drain-forced", "drain-cancelled"),
    "life": (
        *("domain-created", "domain-started", "domain-answering", "domain-ready", "domain-adopted"),
        *("domain-replaced", "domain-stopped", "domain-powered-off", "domain-silent"),
        *("domain-suspended", "domain-resumed", "domain-unready", "shutdown-asked"),
    ),
    "traffic": (
        *("backend-ready", "backend-unplaced", "backend-unhealthy", "backend-healthy", "backend-cut"),
        *("backend-held", "backend-kept", "backend-restless", "connections-skewed", "connections-even"),
        *("slot-restored", "proxy-restarted"),
    ),
    "warm": ("domain-standby", "domain-woken", "snapshot-taken", "snapshot-dropped", "tier-failed"),
    "halt": ("scaling-halted", "scaling-resumed"),
    "operator": ("operator",),
    "config": ("config-reloaded", "config-refused"),
    "recording": ("recording-paused", "recording-resumed", "recording-lost", "recording-gap"),
}
"""What may stand in ``events`` of a notification, beside the events' own names and ``all``."""


class Metrics(Table):
    """Where Prometheus reads. Empty addresses switch the endpoint off.

    ``listen`` is the exporter's, for the whole system; ``haproxy_listen`` is that of HAProxy's own exporter.
    """

    listen: str = "127.0.0.1:9464"
    haproxy_listen: str = ""

    @field_validator("listen", "haproxy_listen")
    @classmethod
    def _listen_is_an_address(cls, listen: str) -> str:
        if listen:
            split_endpoint(listen)
        return listen

    @model_validator(mode="after")
    def _addresses_are_apart(self) -> Self:
        if self.listen and self.haproxy_listen and is_clash(self.listen, self.haproxy_listen):
            raise ValueError(f"listen and haproxy_listen clash: {self.listen!r} and {self.haproxy_listen!r}")
        return self


class Notification(Table):
    """One receiver of events: a webhook (``url``) or a program (``command``), never both.

    ``retries`` is how often a failed delivery is tried again before it is given up.
    """

    name: str = Field(default="", pattern=r"^([a-z][a-z0-9-]{0,40})?$")
    url: Annotated[str, SECRET] = ""
    command: Annotated[tuple[str, ...], SECRET] = Field(default=(), strict=False)
    secret_file: str = ""
    events: tuple[str, ...] = Field(default=("scale", "failure", "breaker"), strict=False, min_length=1)
    groups: tuple[str, ...] = Field(default=(), strict=False)
    timeout_s: float = Field(default=5.0, gt=0, le=60)
    retries: int = Field(default=8, ge=0, le=50)

    @field_validator("url")
    @classmethod
    def _url_is_http(cls, url: str) -> str:
        if not url:
            return url
        try:
            parts = urlsplit(url)
            is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_good = False
        if not is_good or not re.fullmatch(r"[!-~]+", url):
            raise ValueError("must be http://HOST… or https://HOST…, in ASCII and without spaces")
        return url

    @field_validator("command")
    @classmethod
    def _command_is_an_absolute_path(cls, command: tuple[str, ...]) -> tuple[str, ...]:
        if command and not command[0].startswith("/"):
            raise ValueError("must begin with the absolute path of a program: no shell looks it up")
        if any("\0" in word for word in command):
            raise ValueError("must not contain the character NUL")
        return command

    @field_validator("secret_file")
    @classmethod
    def _secret_file_is_absolute(cls, path: str) -> str:
        if path and not path.startswith("/"):
            raise ValueError("must be an absolute path")
        return path

    @field_validator("events")
    @classmethod
    def _events_are_known(cls, events: tuple[str, ...]) -> tuple[str, ...]:
        allowed = [ALL_EVENTS, *EVENT_CLASSES, *(name for names in EVENT_CLASSES.values() for name in names)]
        unknown = sorted(set(events) - set(allowed))
        if unknown:
            raise ValueError(f"unknown {', '.join(unknown)}; allowed: {', '.join(dict.fromkeys(allowed))}")
        return events

    @model_validator(mode="after")
    def _one_receiver(self) -> Self:
        if bool(self.url) == bool(self.command):
            raise ValueError(f"needs either url or command; got {'both' if self.url else 'neither'}")
        if self.secret_file and not self.url:
            raise ValueError("secret_file is for a url: what a command gets on its standard input is not signed")
        return self
