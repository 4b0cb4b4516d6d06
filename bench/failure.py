"""From the death of a domain's QEMU to its slot out of rotation in HAProxy.

The peer beside it, in the same run: HAProxy's own checks alone, with the balancer stopped (SIGSTOP) for the round.
"""

import os
import signal
import statistics
import time
from typing import Any

from bench.installation import CLOCK, Installation, qemu_pid, wait_until
from common.errors import AutoscalerError
from services.balancer.core.haproxy_config import stats_socket
from services.balancer.haproxy import RuntimeApi

KILLS = 20
PEER_KILLS = 5
LOOK_EVERY_S = 0.001
TIMEOUT_S = 15.0


def run(installation: Installation) -> dict[str, Any]:
    """Return milliseconds from SIGKILL to "no traffic", with our push and without it."""
    api = RuntimeApi(stats_socket(installation.config.system), CLOCK)
    pushed = [_kill(installation, api, with_balancer=True) for _ in range(KILLS)]
    alone = [_kill(installation, api, with_balancer=False) for _ in range(PEER_KILLS)]
    return {"pushed_ms": pushed, "checks_alone_ms": alone}


def _kill(installation: Installation, api: RuntimeApi, *, with_balancer: bool) -> float:
    installation.hold_at(2)
    victim = installation.ready()[-1]
    balancer = next(entry["pid"] for entry in installation.status()["services"] if entry["name"] == "balancer")
    if not with_balancer:
        os.kill(balancer, signal.SIGSTOP)
    try:
        os.kill(qemu_pid(victim["name"]), signal.SIGKILL)
        begin_s = CLOCK.monotonic_s()
        while _takes_traffic(api, installation.name, victim["address"]):
            if CLOCK.monotonic_s() - begin_s > TIMEOUT_S:
                raise AutoscalerError(f"{victim['name']} still takes traffic {TIMEOUT_S:.0f} s after its death")
            time.sleep(LOOK_EVERY_S)
        took_ms = (CLOCK.monotonic_s() - begin_s) * 1000
    finally:
        if not with_balancer:
            os.kill(balancer, signal.SIGCONT)
    wait_until(lambda: victim["uuid"] not in _uuids(installation), 90, "the dead domain's end")
    return took_ms


def _uuids(installation: Installation) -> set[str]:
    return {domain["uuid"] for domain in installation.group()["domains"]}


def _takes_traffic(api: RuntimeApi, group: str, address: str) -> bool:
    servers = api.look([group]).servers[group]
    return any(server.address == address and server.status.startswith("UP") for server in servers)


def show(result: dict[str, Any]) -> str:
    """Return the result as a table."""
    pushed, alone = result["pushed_ms"], result["checks_alone_ms"]
    ratio = statistics.median(alone) / statistics.median(pushed)
    return "\n".join(
        [
            "Milliseconds from the end of QEMU to its slot out of rotation.",
            "| | n | median | worst |",
            "|---|---|---|---|",
            f"| with the balancer's push | {len(pushed)} | {statistics.median(pushed):.0f} | {max(pushed):.0f} |",
            f"| HAProxy's own checks alone | {len(alone)} | {statistics.median(alone):.0f} | {max(alone):.0f} |",
            f"\nThe push is {ratio:.1f} x faster.",
        ]
    )
