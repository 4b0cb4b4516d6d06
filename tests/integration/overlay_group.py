"""A template group whose domains have disks and boot nothing: in rotation in seconds, on real libvirt and QEMU.

The test answers the health check of every member, at the addresses that their guests would have.
"""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import libvirt

from common.config import Config
from services.actuator.access import disk_pool
from tests.integration.actuator_stand import Driver
from tests.integration.busy_disk import write_disk
from tests.named import Named

SLOTS = 4  # those that have an address here


def overlay_config(
    place: Path, port: int, prefix: str, network: Mapping[str, object], uri: str = "qemu:///system", **group: object
) -> Config:
    """Return the configuration of such a group, with directories below ``place``; its health is asked at ``port``."""
    base = write_disk(place / "base.raw")
    base.chmod(0o644)
    (place / "state").mkdir()
    values = {
        "prefix": prefix,
        "min": 0,
        "max": 4,
        "endpoint": "127.0.0.1:18998",
        "port": port,
        "image": {"disk": str(base), "memory_mib": 32},
        "readiness": {"path": "/", "identity": False},
    }
    system = {"run_dir": str(place / "run"), "state_dir": str(place / "state"), "interval_s": 1.0}
    hosts, groups = {"local": {"uri": uri}}, {prefix.removesuffix("-"): values | group}
    return Config.model_validate({"system": system, "hosts": hosts, "network": network, "groups": groups})


@contextmanager
def overlay_group(config: Config) -> Iterator[Driver]:
    """Give the actuator of the group, which wants nobody yet; what it has made is removed at the end."""
    with ExitStack() as stack:
        for slot in range(SLOTS):
            stack.enter_context(own_address(config.network.address(slot)))
        driver = Driver(config)
        stack.callback(sweep, config)
        stack.callback(driver.close)
        yield driver


@contextmanager
def own_address(address: str) -> Iterator[None]:
    """Let this machine answer at the address of a guest that does not."""
    subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "address", "del", f"{address}/32", "dev", "lo"], check=True)


def connected(config: Config) -> Named:
    """Return a connection that knows the group's domains and their disks."""
    prefixes = tuple(group.prefix for group in config.groups.values())
    may_touch = lambda name: name.startswith(prefixes)  # noqa: E731
    return Named.open("qemu:///system", is_read_only=False, may_touch=may_touch, pool=disk_pool(config))


def sweep(config: Config) -> None:
    """Remove what the group has left."""
    connection = connected(config)
    connection.remove_mine()
    connection.remove_volumes(lambda _name: True)
    connection.remove_network(config.network.name)
    connection.close()
    raw = libvirt.open("qemu:///system")
    for pool in raw.listAllStoragePools():
        if pool.name().startswith(disk_pool(config).name):  # that of the base image, too
            is_persistent = pool.isPersistent()
            pool.destroy()  # its directory may be a mount point: it stays until that is gone
            if is_persistent:
                pool.undefine()
    raw.close()
