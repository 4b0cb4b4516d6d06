"""Machines that are only a network interface, in a namespace of their own, at the other end of a cable."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CLIENT = Path(__file__).parents[1] / "dhcp_client.py"


@contextmanager
def cabled(name: str, near: str, *commands: str) -> Iterator[None]:
    """Make a namespace, and the cable to it by the commands; ``near`` is this machine's end. Both go in the end."""
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for command in commands:
            subprocess.run(command.split(), check=True)
        yield
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
        subprocess.run(["ip", "link", "del", near], check=False, stderr=subprocess.DEVNULL)


@contextmanager
def plugged(bridge: str, mac: str, name: str) -> Iterator[str]:
    """Give the name of a namespace whose interface ``far`` has this MAC and is on the bridge."""
    near = f"{name}n"[:15]
    with cabled(
        name,
        near,
        f"ip link add {near} type veth peer name far address {mac} netns {name}",
        f"ip link set {near} master {bridge} up",
        f"ip -n {name} link set far up",
    ):
        yield name


def lease(namespace: str, client_id: str = "", timeout_s: float = 60.0) -> dict[str, Any]:
    """Return what the network's DHCP server gives to the machine; ``client_id`` as hex tells it from others."""
    command = ["ip", "netns", "exec", namespace, sys.executable, str(CLIENT), "far", client_id]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=timeout_s)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
