"""The kernel's table of neighbours, for hosts on this machine.

libvirt 9.0 cannot read it on recent kernels (``wrong nlmsg len``, whatever is in it), so it is read here.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Final

from common.virt.addresses import Candidate

TABLE: Final = Path("/proc/net/arp")
_COMPLETE: Final = 0x2


def neighbours(macs: Collection[str], table: str) -> list[Candidate]:
    """Return every complete IPv4 address in ``table`` that belongs to one of ``macs``, in its order."""
    found = []
    for line in table.splitlines()[1:]:
        address, _hardware, flags, mac = line.split()[:4]
        if int(flags, 16) & _COMPLETE and mac.lower() in macs:
            found.append(Candidate(address, mac.lower()))
    return found
