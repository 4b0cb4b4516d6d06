"""The kernel's table of neighbours, for hosts on this machine.

libvirt 9.0 cannot read it on recent kernels (``wrong nlmsg len``, whatever is in it), so it is read here.
"""

import xml.etree.ElementTree as ET
from collections.abc import Collection
from pathlib import Path
from typing import Final

TABLE: Final = Path("/proc/net/arp")
_COMPLETE: Final = 0x2


def macs_in_xml(text: str) -> set[str]:
    """Return the MACs of a domain's interfaces, in lower case.

    >>> macs_in_xml("<domain><devices><interface><mac address='52:54:00:AA:00:01'/></interface></devices></domain>")
    {'52:54:00:aa:00:01'}
    """
    root = ET.fromstring(text)  # noqa: S314 - libvirt's own text
    return {mac.get("address", "").lower() for mac in root.iterfind("devices/interface/mac")}


def neighbour(macs: Collection[str], table: str) -> str | None:
    """Return the first complete IPv4 address in ``table`` that belongs to one of ``macs``, None if there is none."""
    for line in table.splitlines()[1:]:
        address, _hardware, flags, mac = line.split()[:4]
        if int(flags, 16) & _COMPLETE and mac.lower() in macs:
            return address
    return None
