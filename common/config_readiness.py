"""``[groups.NAME.readiness]``: when a domain serves, and the one question by which that is found out.

The prober, HAProxy and ``doctor`` ask the same: ``question`` builds it for all of them.

# Note [Whose Host]
By default the ``Host`` is the group's name, whoever asks: an application that knows only one name must get the same
from all, or it is ready for the one and sick for the other, and replaced for ever.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from common.config_table import SECRET, Table

NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")
VALUE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,998}[\x21-\x7e])?")
HOST: Final = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?")
OURS: Final = ("connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade", "expect", "keep-alive")
STATUS_CLASS: Final = re.compile(r"[2-5]xx")
USER_AGENT: Final = "autoscaler-check"
HTTP_KEYS: Final = ("expect", "host", "headers")
MAX_HEADERS: Final = 20


class Readiness(Table):
    """When a domain serves: an HTTP answer from ``path``, an open port for ``tcp``, or its guest agent for ``agent``.

    ``expect`` lists the statuses that are a right answer, such as 204 or "2xx". ``host`` and ``headers`` are sent along
    with the question. ``identity`` asks that the answer names the domain: in ``X-Served-By`` or as the body, or for
    ``agent`` as the guest's host name; without it any right answer counts. By default only kernel-and-initramfs
    domains must.
    """

    protocol: Literal["http", "tcp", "agent"] = "http"
    path: str = Field(default="/healthz", pattern=r"^/[A-Za-z0-9._~/%?=&-]*$", max_length=200)
    expect: tuple[int | str, ...] = Field(default=(200,), strict=False, min_length=1, max_length=20)
    host: str = ""
    headers: Annotated[dict[str, str], SECRET] = Field(default_factory=dict, max_length=MAX_HEADERS)
    identity: bool | None = None
    timeout_s: float = Field(default=1.0, gt=0, le=60)

    @field_validator("expect")
    @classmethod
    def _expects_statuses(cls, expect: tuple[int | str, ...]) -> tuple[int | str, ...]:
        for one in expect:
            is_class = isinstance(one, str) and STATUS_CLASS.fullmatch(one)
            if not is_class and not (isinstance(one, int) and not isinstance(one, bool) and 200 <= one <= 599):
                raise ValueError(f"must be statuses from 200 to 599, or classes such as '2xx'; got {one!r}")
        return expect

    @field_validator("host")
    @classmethod
    def _host_is_a_host(cls, host: str) -> str:
        found = HOST.fullmatch(host)
        if host and (found is None or int(found["port"] or 1) not in range(1, 65536)):
            raise ValueError(
                f"must be a name or an address, with :PORT if need be, such as app.example.org; got {host!r}"
            )
        return host

    @field_validator("headers")
    @classmethod
    def _headers_are_lines(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if not NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a header: letters, digits and - are, such as X-Probe")
            if name.lower() == "host":
                raise ValueError("Host has a key of its own: host")
            if name.lower() in OURS:
                raise ValueError(f"{name} is the connection's own header, and cannot be set")
            if not VALUE.fullmatch(value):
                raise ValueError(f"{name} must be 1 to 1000 printable ASCII characters, with no space at either end")
        if len({name.lower() for name in headers}) != len(headers):
            raise ValueError(f"every header must be given once, in whatever case; got {[*headers]}")
        return headers

    @model_validator(mode="after")
    def _keys_fit_the_protocol(self) -> Self:
        strangers = [
            key
            for key in HTTP_KEYS
            if getattr(self, key) != type(self).model_fields[key].get_default(call_default_factory=True)
        ]
        if self.protocol != "http" and strangers:
            raise ValueError(
                f"{', '.join(strangers)}: only with protocol 'http'; {self.protocol!r} asks nothing by HTTP"
            )
        return self


@dataclass(frozen=True, slots=True)
class Question:
    """One HTTP request, and the statuses, as ranges, that are a right answer. ``headers`` begins with ``Host``."""

    path: str
    headers: tuple[tuple[str, str], ...]
    statuses: tuple[tuple[int, int], ...]
    method: str = "GET"
    version: str = "HTTP/1.1"

    def is_right(self, status: int) -> bool:
        """Return whether an answer with this status is a right one."""
        return any(least <= status <= most for least, most in self.statuses)

    @property
    def wanted(self) -> str:
        """Return the right statuses in words, such as ``2xx, 301``."""
        return ", ".join(f"{least}" if least == most else f"{least // 100}xx" for least, most in self.statuses)


def question(group: str, readiness: Readiness) -> Question:
    """Return what the domains of ``group`` are asked by HTTP; see Note [Whose Host].

    >>> asked = question("web", Readiness(expect=("2xx", 301)))
    >>> asked.headers[0], asked.statuses
    (('Host', 'web'), ((200, 299), (301, 301)))
    """
    own = {name.lower() for name in readiness.headers}
    agent = () if "user-agent" in own else (("User-Agent", USER_AGENT),)
    headers = (("Host", readiness.host or group), *agent, *readiness.headers.items())
    return Question(readiness.path, headers, tuple(_range(one) for one in readiness.expect))


def _range(expected: int | str) -> tuple[int, int]:
    if isinstance(expected, int):
        return expected, expected
    return int(expected[0]) * 100, int(expected[0]) * 100 + 99
