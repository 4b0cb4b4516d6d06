"""Asks the question of a group's readiness, over a connection of its own, as HAProxy's check does.

The headers are exactly the question's and ``Connection: close``, which HAProxy's check sends too.
"""

import http.client
from dataclasses import dataclass
from typing import Final

from common.config_readiness import Question

MAX_BODY_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What came back: the status, two headers where there are any, and the beginning of the body."""

    status: int
    served_by: str | None
    date: str | None
    body: bytes


def ask_http(asked: Question, address: str, port: int, *, connect_timeout_s: float, timeout_s: float) -> HttpAnswer:
    """Return the answer to a question; redirects are not followed.

    Raises:
        OSError: nobody answers in time.
        http.client.HTTPException: what comes back is no HTTP.
    """
    connection = http.client.HTTPConnection(address, port, timeout=connect_timeout_s)
    try:
        connection.connect()
        connection.sock.settimeout(timeout_s)
        connection.putrequest(asked.method, asked.path, skip_host=True, skip_accept_encoding=True)
        for name, value in (*asked.headers, ("Connection", "close")):
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        body = response.read(MAX_BODY_BYTES)
        return HttpAnswer(response.status, response.getheader("X-Served-By"), response.getheader("Date"), body)
    finally:
        connection.close()
