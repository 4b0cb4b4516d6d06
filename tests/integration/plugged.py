"""Machines that are only a network interface, in a namespace of their own, plugged into a libvirt network's bridge."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CLIENT = Path(__file__).parents[1] / "dhcp_client.py"


@contextmanager
def plugged(bridge: str, mac: str, name: str) -> Iterator[str]:
    """Give the name of a namespace whose interface ``far`` has this MAC and is on the bridge."""
    near = f"{name}n"[:15]
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for command in (
            f"ip link add {near} type veth peer name far address {mac} netns {name}",
            f"ip link set {near} master {bridge} up",
            f"ip -n {name} link set far up",
        ):
            subprocess.run(command.split(), check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
        subprocess.run(["ip", "link", "del", near], check=False, stderr=subprocess.DEVNULL)


def lease(namespace: str, client_id: str = "") -> dict[str, Any]:
    """Return what the network's DHCP server gives to the machine; ``client_id`` as hex tells it from others."""
    command = ["ip", "netns", "exec", namespace, sys.executable, str(CLIENT), "far", client_id]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
