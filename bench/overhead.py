"""What the services cost: CPU and memory with four domains at one sample a second.

The limit beside it, in the same run: the same domains' QEMU processes, idle.
"""

import statistics
import time
from typing import Any

from bench.installation import CLOCK, Installation, cpu_s, memory_bytes, qemu_pid

DOMAINS = 4
ROUNDS = 5
ROUND_S = 12.0


def run(installation: Installation) -> dict[str, Any]:
    """Return CPU share of one core (median of rounds) and memory, by service, and in all."""
    maximum = installation.config.groups[installation.name].maximum
    installation.hold_at(min(DOMAINS, maximum))
    services = {entry["name"]: entry["pid"] for entry in installation.status()["services"] if entry["alive"]}
    guests = {domain["name"]: qemu_pid(domain["name"]) for domain in installation.ready()}
    rounds = [_shares({**services, **guests}) for _ in range(ROUNDS)]
    shares = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    memory = {name: memory_bytes(pid) for name, pid in services.items()}
    return {
        "domains": len(guests),
        "services": {
            name: {"cpu_share": shares[name], "rss_bytes": memory[name][0], "pss_bytes": memory[name][1]}
            for name in services
        },
        "cpu_share": statistics.median(sum(one[name] for name in services) for one in rounds),
        "rss_bytes": sum(rss for rss, _pss in memory.values()),
        "pss_bytes": sum(pss for _rss, pss in memory.values()),
        "idle_guests_cpu_share": sum(shares[name] for name in guests),
    }


def _shares(pids: dict[str, int]) -> dict[str, float]:
    begin_s, before = CLOCK.monotonic_s(), {name: cpu_s(pid) for name, pid in pids.items()}
    time.sleep(ROUND_S)
    elapsed_s = CLOCK.monotonic_s() - begin_s
    return {name: (cpu_s(pid) - before[name]) / elapsed_s for name, pid in pids.items()}


def show(result: dict[str, Any]) -> str:
    """Return the result as a table."""
    lines = ["| service | CPU, share of one core | RSS | PSS |", "|---|---|---|---|"]
    for name, values in result["services"].items():
        lines.append(_row(name, values["cpu_share"], values["rss_bytes"], values["pss_bytes"]))
    lines.append(_row("**all**", result["cpu_share"], result["rss_bytes"], result["pss_bytes"]))
    ratio = result["cpu_share"] / result["idle_guests_cpu_share"] if result["idle_guests_cpu_share"] else float("nan")
    lines.append(
        f"\n{result['domains']} domains; their own QEMU processes, idle, use {result['idle_guests_cpu_share']:.1%} "
        f"of a core: the services cost {ratio:.2f} x that."
    )
    return "\n".join(lines)


def _row(name: str, share: float, rss_bytes: int, pss_bytes: int) -> str:
    return f"| {name} | {share:.2%} | {rss_bytes / 2**20:.0f} MiB | {pss_bytes / 2**20:.0f} MiB |"
