"""Ports for the servers that tests start."""

import random
import socket

FIRST, BEHIND = 20_000, 32_000  # below those that the kernel gives to connections, none of which can take one meanwhile


def free_port(count: int = 1) -> int:
    """Return the first of ``count`` ports in a row that nobody holds on this machine's loopback address."""
    for _ in range(100):
        port = random.randrange(FIRST, BEHIND - count)
        if all(_is_free(port + more) for more in range(count)):
            return port
    raise AssertionError(f"no {count} free ports in a row")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
