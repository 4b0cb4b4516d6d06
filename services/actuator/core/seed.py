"""What cloud-init is told in a domain's seed (datasource NoCloud): who it is, where it is, and the user's own data.

The texts follow from the domain's name, UUID and slot alone, so a seed that is made again says the same. JSON is YAML.

# Note [Seeds of clones]
A guest that goes on from a saved memory believes its disks to be as large as they were. So all seeds of a group that
clones have one size, and the last block of each says in JSON who its domain is. The template's seed also brings the
program that reads it there, ``services/actuator/guest/identity.py``.
"""

import json
from collections.abc import Collection
from typing import Final

from common.config import Network
from services.actuator.core.disks import Disk

LABEL: Final = "cidata"
USER_DATA_STARTS: Final = ("#cloud-config", "#!", "#include", "#cloud-boothook", "#part-handler", "## template:",
                           "#upstart-job", "#cloud-config-archive", "Content-Type:", "MIME-Version:")  # fmt: skip
MAX_USER_DATA_BYTES: Final = 1024 * 1024
NO_USER_DATA: Final = "#cloud-config\n"
IDENTITY_BYTES: Final = 4096
_MIB: Final = 1024 * 1024
_ROOM_BYTES: Final = 512 * 1024  # for ISO 9660 itself, and all that is neither user-data nor keys


def seed_files(name: str, uuid: str, network: Network, slot: int, disk: Disk, program: str = "") -> dict[str, bytes]:
    """Return the files of the seed by name.

    The address is static: the one that DHCP would give to the slot's MAC, without asking. The machine-id is the UUID.

    Args:
        program: What a template runs, in Python; empty for any other domain.
    """
    script = _MACHINE_ID.format(machine_id=_machine_id(uuid), program=_PROGRAM.format(text=program) if program else "")
    texts = {
        "meta-data": _json({"instance-id": uuid, "local-hostname": name, "public-keys": list(disk.ssh_keys)}),
        "user-data": disk.user_data or NO_USER_DATA,
        "vendor-data": script,
        "network-config": _json(_network_config(network, slot, disk.name_servers)),
    }
    return {file: text.encode() for file, text in texts.items()}


def seed_bytes(ssh_keys: Collection[str], user_data: str) -> int:
    """Return the size of every seed of a group that clones; see Note [Seeds of clones].

    >>> seed_bytes((), "#cloud-config") == seed_bytes(("ssh-ed25519 AAAA",), "") == 1024 * 1024
    True
    """
    content = _ROOM_BYTES + len(user_data.encode()) + sum(len(key) for key in ssh_keys)
    return -(-content // _MIB) * _MIB


def identity_block(name: str, uuid: str, network: Network, slot: int, epoch_ms: int = 0, seed: str = "") -> bytes:
    """Return the last block of a seed.

    Args:
        epoch_ms: The wall clock.
        seed: Random bytes in hex.
    """
    identity = {
        "name": name,
        "machine_id": _machine_id(uuid),
        "mac": network.mac(slot),
        "address": network.address(slot),
        "prefix_length": str(network.prefix_length),
        "gateway": network.gateway,
        "epoch_ms": str(epoch_ms),
        "seed": seed,
    }
    return json.dumps(identity).encode().ljust(IDENTITY_BYTES, b"\0")


def why_no_user_data(text: str) -> str:
    """Return why cloud-init would not understand the text as user-data; empty if it does."""
    if len(text.encode()) > MAX_USER_DATA_BYTES:
        return f"has {len(text.encode())} bytes; at most {MAX_USER_DATA_BYTES} are allowed"
    first = text.partition("\n")[0]
    if text and not text.startswith(USER_DATA_STARTS):
        return f"must begin as user-data of cloud-init does, such as #cloud-config or #!/bin/sh; got {first[:40]!r}"
    return ""


# Note [A machine-id for each]
# An image that was started once has a machine-id inside, and all its copies would share it. cloud-init leaves it alone.
# So the seed brings a script that runs before the services do; a user's own user-data does not replace it.
_MACHINE_ID: Final = """\
#cloud-boothook
#!/bin/sh
{program}id={machine_id}
[ "$(cat /etc/machine-id 2>/dev/null)" = "$id" ] && exit 0
umount /etc/machine-id 2>/dev/null
rm -f /etc/machine-id
echo "$id" > /etc/machine-id
chmod 0444 /etc/machine-id
if [ -f /var/lib/dbus/machine-id ] && [ ! -L /var/lib/dbus/machine-id ]; then
    cp /etc/machine-id /var/lib/dbus/machine-id
fi
exit 0
"""

_PROGRAM: Final = """\
cat > /run/autoscaler-identity.py <<'END-OF-PROGRAM'
{text}
END-OF-PROGRAM
if command -v systemd-run >/dev/null; then
    systemd-run --quiet --no-block --unit=autoscaler-identity python3 /run/autoscaler-identity.py
else
    setsid python3 /run/autoscaler-identity.py </dev/null >/dev/null 2>&1 &
fi
"""


def _machine_id(uuid: str) -> str:
    return uuid.replace("-", "")


def _network_config(network: Network, slot: int, name_servers: tuple[str, ...]) -> dict[str, object]:
    """Version 1: understood by every cloud-init, whatever configures the guest's network."""
    subnet = {
        "type": "static",
        "address": f"{network.address(slot)}/{network.prefix_length}",
        "gateway": network.gateway,
        "dns_nameservers": list(name_servers),
    }
    nic = {"type": "physical", "name": "eth0", "mac_address": network.mac(slot), "subnets": [subnet]}
    return {"version": 1, "config": [nic]}


def _json(value: object) -> str:
    return json.dumps(value, indent=1) + "\n"
