"""``haproxy.cfg`` from the configuration: pure text, the same for the same arguments.

Each group is a frontend and a backend of its name. The backend holds ``slots`` servers ``vm1`` … that stand empty, in
maintenance, until the balancer gives one an address through the runtime API.

# Note [slot.invalid]
The address of a slot must survive a reload of HAProxy. It does for a server that has a *name* in the configuration: the
address comes from the state file (``init-addr last``). The name never resolves and nobody asks: no resolver is set.
A server with a literal address would come back on that one, ready.

# Note [What may be sent twice]
A request without a body of consequence (GET, HEAD) is sent to another server when its first server refuses, breaks off
or stays silent. Any other request is sent once: only a connection that never came about is tried elsewhere.

# Note [How soon a check finds out]
Whoever fails just after a good check waits ``inter``, then for three checks that time out, ``fastinter`` apart. A
frozen guest does not even connect (500 ms each): 2.2 s by default; an application that hangs takes ``timeout check``
for each: 3.7 s. A QEMU of this machine that is stopped is told by the monitor, and avoided before any check.
"""

import math
from pathlib import Path
from typing import Final

from common.config import Config, Group, Haproxy, System

EMPTY_ADDRESS: Final = "127.0.0.1"
EMPTY_PORT: Final = 1  # no member listens there
CONNECT_TIMEOUT_MS: Final = 500
FAST_CHECK_MS: Final = 100
METRICS_FRONTEND: Final = "_metrics"
RESERVED_FDS: Final = 300  # listeners, health checks, the runtime API
HARD_STOP_S: Final = 600.0
NOTHING_UP: Final = "No domain of this group can serve now. Try again in a moment.\\n"


def stats_socket(system: System) -> Path:
    """Return the socket of HAProxy's runtime API."""
    return system.run_path / "haproxy.sock"


def master_socket(system: System) -> Path:
    """Return the socket of HAProxy's master; every way of starting HAProxy names it (``-S``)."""
    return system.run_path / "haproxy-master.sock"


def hard_stop_s(config: Config) -> float:
    """Return how long after a reload an old worker is ended, finished or not.

    It is never before a request could have ended by itself, or by the deadline of a drain that began with it.
    """
    longest_s = max(group.drain_timeout_s for group in config.groups.values())
    return max(HARD_STOP_S, config.haproxy.request_timeout_s + longest_s)


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
        "    timeout tunnel 1h",
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
    lines = [f"backend {name}", f"    mode {group.protocol}"]
    if group.protocol == "http":
        lines += [
            "    option forwardfor",
            "    option abortonclose",  # nobody waits for the answer of a client that left
            "    retry-on conn-failure empty-response response-timeout",
            "    http-request disable-l7-retry if !METH_GET",
            f'    http-error status 503 content-type text/plain string "{NOTHING_UP}" hdr Retry-After 1',
        ]
    lines.append(f"    timeout check {_ms(group.readiness.timeout_s)}ms")
    if group.readiness.protocol == "http":
        lines += [
            "    option httpchk",
            f"    http-check send meth GET uri {group.readiness.path} ver HTTP/1.1 hdr Host {name}",
            "    http-check expect status 200",
        ]
    return [
        *lines,
        f"    server-template vm 1-{haproxy.slots} slot.invalid:{EMPTY_PORT} check disabled"
        f" maxconn {group.max_in_flight} init-addr last,{EMPTY_ADDRESS}",
    ]


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _quoted(path: Path) -> str:
    """Return the path as one word of HAProxy's configuration."""
    return "'" + str(path).replace("'", "'\\''") + "'"
