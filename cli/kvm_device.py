"""Whether QEMU's account may open ``/dev/kvm``; where it may not, everything that asks libvirt about QEMU is slow.

libvirt keeps what it found out about QEMU only while its account's view of the device fits: otherwise it starts QEMU
anew, twice, at every definition, start and question for its capabilities (libvirt 9.0 and 11.3: 13 s a definition on a
busy machine, where 0.2 s are usual). udev gives the device to the group ``kvm``; a container may show it with the
number of the host's group.
"""

import grp
import stat
from pathlib import Path
from typing import Final

DEVICE: Final = Path("/dev/kvm")
GROUP: Final = "kvm"
CONSEQUENCE: Final = "libvirt starts QEMU anew at every step, seconds each, and no guest runs under KVM"
MEND: Final = "make it the group's: chgrp kvm /dev/kvm && chmod 0660 /dev/kvm (in a container, of a device of its own)"


def why_closed(device: Path = DEVICE, group: str = GROUP) -> str:
    """Return why the group may not open the device, empty if it may, or if there is no such group or device."""
    try:
        found, gid = device.stat(), grp.getgrnam(group).gr_gid
    except (OSError, KeyError):
        return ""
    of_group, of_others = stat.S_IRGRP | stat.S_IWGRP, stat.S_IROTH | stat.S_IWOTH
    needed = of_group if found.st_gid == gid else of_others
    if found.st_mode & needed == needed:
        return ""
    owner = f"it belongs to group {found.st_gid}, {found.st_mode & 0o777:o}"
    return f"the group {group} ({gid}) may not open {device}: {owner}"
