"""``haproxy.cfg`` from the configuration: pure text, the same for the same arguments.

Each group is a frontend and a backend of its name. The backend holds ``slots`` servers ``vm1`` … that stand empty, in
maintenance, until the balancer gives one an address through the runtime API.

# Note [slot.invalid]
The address of a slot must survive a reload of HAProxy. It does for a server that has a *name* in the configuration: the
address comes from the state file (``init-addr last``). The name never resolves and nobody asks: no resolver is set.
A server with a literal address would come back on that one, ready.

# Note [What may be sent twice]
A request without a body of consequence (GET, HEAD) goes to another server when its first one refuses, breaks off before
the first byte of the answer, or is marked down before it (``empty-response``). HAProxy tells that from an answer that
is only late: ``on-marked-down shutdown-sessions`` ends the stream, and a stream that ends without an answer is tried
again. So it is (seen with 2.6) after ``health down`` and ``state maint`` of the runtime API, and after the failed
checks of a server that is stopped, or whose packets are dropped, without any reset. A late answer of a server that
passes its checks is a 504, and was asked for once; ``retry = "response-timeout"`` asks up to four times. Any other
request is sent once: only a connection that never came about is tried elsewhere. Where an answer must begin sooner than
checks find out (see below), a GET on a frozen guest is a 504 as well: nobody can know yet that it is not only slow.

# Note [Whose connection]
A request takes a connection that has been made before, if one is idle, also as its client's first: HAProxy does so by
itself with all three kinds of retry, and is told to with two. For what waits for an answer when its server is marked
down is tried elsewhere, and what waits for its connection is closed without an answer (see ``backends``, Note
[Connections that are being made]). A GET that meets a connection which the server has just closed is sent again.

# Note [One timer for two times]
HAProxy 2.6 has one timer for an answer, ``timeout server``: it bounds the time to the first byte and each pause after
it, and only a rule for requests can set it, none for answers. So what asks for ``text/event-stream``, as every
EventSource does, has the time of a stream from the beginning, and all else ``response_timeout_s`` for both.
``tcp-response inspect-delay`` could bound the first byte alone, but it closes the connection in place of a 504, counts
the time of an upload, and a GET whose server dies is then not tried elsewhere.

# Note [Slow start]
``slowstart`` begins when a slot becomes ready by the runtime API, from maintenance or drain, not only when checks bring
it up. It is a share of the requests and of ``maxconn``: a member alone is throttled, too.

# Note [How soon a check finds out]
Whoever fails just after a good check waits ``inter``, then for three checks that time out, ``fastinter`` apart. A
frozen guest does not even connect (500 ms each): 2.2 s by default, up to 2.8 s if it was avoided meanwhile, which makes
HAProxy count anew; an application that hangs takes ``timeout check``
for each: 3.7 s. A QEMU of this machine that is stopped is told by the monitor, and avoided before any check.
"""

import math
from pathlib import Path
from typing import Final

from common.config import Config, Group, Haproxy, System
from common.config_readiness import Question, question
from services.balancer.core.workers import MASTER_SOCKET

EMPTY_ADDRESS: Final = "127.0.0.1"
EMPTY_PORT: Final = 1  # no member listens there
CONNECT_TIMEOUT_MS: Final = 500
FAST_CHECK_MS: Final = 100
METRICS_FRONTEND: Final = "_metrics"
RETRIES: Final = ("conn-failure", "empty-response", "response-timeout")  # each with those before it
RESERVED_FDS: Final = 300  # listeners, health checks, the runtime API
HARD_STOP_S: Final = 600.0
NOTHING_UP: Final = "No domain of this group can serve now. Try again in a moment.\\n"


def stats_socket(system: System) -> Path:
    """Return the socket of HAProxy's runtime API."""
    return system.run_path / "haproxy.sock"


def master_socket(system: System) -> Path:
    """Return the socket of HAProxy's master; every way of starting HAProxy names it (``-S``)."""
    return system.run_path / MASTER_SOCKET


def drain_s(config: Config) -> float:
    """Return how long what is in flight may go on, in seconds, when HAProxy ends: as in the group that allows most."""
    return max(group.drain_timeout_s for group in config.groups.values())


def hard_stop_s(config: Config) -> float:
    """Return how long after a reload an old worker is ended, finished or not.

    It is never before a request could have ended by itself, or by the deadline of a drain that began with it.
    """
    answer_s = max(group.answers_within_s(config.haproxy) for group in config.groups.values())
    return max(HARD_STOP_S, answer_s + drain_s(config))


def state_file(system: System) -> Path:
    """Return the file from which a starting HAProxy takes addresses and states of its slots."""
    return system.state_path / "haproxy.state"


def allowed_maxconn(wanted: int, fd_limit: int) -> int:
    """Return how many connections HAProxy can accept: each needs two file descriptors.

    >>> allowed_maxconn(4000, 20000), allowed_maxconn(10000, 20000)
    (4000, 9850)
    """
    return max(10, min(wanted, (fd_limit - RESERVED_FDS) // 2))


def haproxy_config(config: Config, fd_limit: int, account: str | None) -> str:
    """Return the text of ``haproxy.cfg``.

    Args:
        config: checked; its names and paths go into the text.
        fd_limit: the most file descriptors that HAProxy may open, > 0.
        account: the user and group that serve, once the sockets are bound; None keeps the one who starts HAProxy.
    """
    parts = [_global(config, fd_limit, account), _defaults(config.haproxy)]
    for name, group in config.groups.items():
        parts += [_frontend(name, group), _backend(name, group, config.haproxy)]
    if config.metrics.haproxy_listen:
        parts.append(_metrics(config.metrics.haproxy_listen))
    return "\n".join("\n".join(part) + "\n" for part in parts)


def _global(config: Config, fd_limit: int, account: str | None) -> list[str]:
    system = config.system
    lines = [
        "# Written by the balancer from autoscaler.toml; changes made here are lost.",
        "global",
        f"    stats socket {_quoted(stats_socket(system))} mode 0600 level admin expose-fd listeners",
        "    stats timeout 10s",
        f"    server-state-file {_quoted(state_file(system))}",
        f"    maxconn {allowed_maxconn(config.haproxy.maxconn, fd_limit)}",
        f"    hard-stop-after {math.ceil(hard_stop_s(config))}s",
    ]
    return lines + ([f"    user {account}", f"    group {account}"] if account else [])


def _defaults(haproxy: Haproxy) -> list[str]:
    request_ms = _ms(haproxy.request_timeout_s)
    inter_ms = _ms(haproxy.check_interval_s)
    return [
        "defaults",
        "    load-server-state-from-file global",
        "    balance leastconn",
        "    option redispatch 1",
        "    retries 3",
        f"    timeout connect {CONNECT_TIMEOUT_MS}ms",
        f"    timeout client {request_ms}ms",
        f"    timeout server {request_ms}ms",
        f"    timeout queue {request_ms}ms",
        f"    default-server inter {inter_ms}ms fastinter {min(FAST_CHECK_MS, inter_ms)}ms fall 3 rise 2"
        " on-marked-down shutdown-sessions",
    ]


def _frontend(name: str, group: Group) -> list[str]:
    lines = [f"frontend {name}", f"    bind {group.endpoint}", f"    mode {group.protocol}"]
    if group.protocol == "http":
        lines += [
            "    timeout http-request 10s",
            "    timeout http-keep-alive 30s",
            "    option idle-close-on-response",
        ]
    return [*lines, f"    default_backend {name}"]


def _metrics(listen: str) -> list[str]:
    """Return the frontend at which HAProxy's own exporter answers; no group can have its name."""
    return [
        f"frontend {METRICS_FRONTEND}",
        f"    bind {listen}",
        "    mode http",
        "    maxconn 16",
        "    timeout http-request 10s",
        "    http-request use-service prometheus-exporter if { path /metrics }",
        '    http-request return status 404 content-type text/plain string "metrics are at /metrics\\n"',
    ]


def _backend(name: str, group: Group, haproxy: Haproxy) -> list[str]:
    lines = [f"backend {name}", f"    mode {group.protocol}", f"    timeout tunnel {_ms(group.tunnel_timeout_s)}ms"]
    if group.protocol == "http":
        lines += _requests(group, haproxy)
    lines.append(f"    timeout check {_ms(group.readiness.timeout_s)}ms")
    if group.readiness.protocol == "http":
        lines += _check(question(name, group.readiness))
    slow_start = f" slowstart {_ms(group.slow_start_s)}ms" if group.slow_start_s else ""
    return [
        *lines,
        f"    server-template vm 1-{haproxy.slots} slot.invalid:{EMPTY_PORT} check disabled"
        f" maxconn {group.max_in_flight}{slow_start} init-addr last,{EMPTY_ADDRESS}",
    ]


def _requests(group: Group, haproxy: Haproxy) -> list[str]:
    """Return what holds for requests; see Notes [What may be sent twice] and [One timer for two times]."""
    answer_ms = _ms(group.answers_within_s(haproxy))
    retries = RETRIES[: RETRIES.index(group.retry or "empty-response") + 1]
    return [
        "    option forwardfor",
        "    option abortonclose",  # nobody waits for the answer of a client that left
        f"    timeout server {answer_ms}ms",
        f"    timeout queue {answer_ms}ms",
        f"    http-request set-timeout server {_ms(group.event_stream_idle_s(haproxy))}ms"
        " if { req.hdr(accept) -m sub -i text/event-stream }",
        f"    retry-on {' '.join(retries)}",
        f"    http-reuse {'safe' if len(retries) == 1 else 'always'}",
        "    http-request disable-l7-retry if !METH_GET",
        f'    http-error status 503 content-type text/plain string "{NOTHING_UP}" hdr Retry-After 1',
    ]


def _check(asked: Question) -> list[str]:
    """Return the check that asks the question; HAProxy adds ``Connection: close`` by itself."""
    headers = "".join(f" hdr {name} {_value(value)}" for name, value in asked.headers)
    statuses = ",".join(f"{least}-{most}" if least < most else str(least) for least, most in asked.statuses)
    return [
        "    option httpchk",
        f"    http-check send meth {asked.method} uri {asked.path} ver {asked.version}{headers}",
        f"    http-check expect status {statuses}",
    ]


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _quoted(path: Path) -> str:
    """Return the path as one word of HAProxy's configuration."""
    return _word(str(path))


def _value(text: str) -> str:
    """Return a header's value as one word; HAProxy reads it as a log format, in which ``%`` begins a variable.

    >>> _value("50 %")
    "'50 %%'"
    """
    return _word(text.replace("%", "%%"))


def _word(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
