"""Whether this host is itself a VM that gives free memory back to the machine below it.

There the first touch of memory that was given back is slow, and dearest in huge pages: each is one piece that was given
back whole. See docs/clones.md for what it costs a clone.
"""

from functools import cache
from pathlib import Path
from typing import Final

DEVICES: Final = Path("/sys/bus/virtio/devices")
BALLOON: Final = 5  # the number of the memory balloon among virtio's devices
REPORTING: Final = 5  # the number of its feature: pages that are free are reported


@cache
def is_memory_given_back(devices: Path = DEVICES) -> bool:
    """Return whether a memory balloon reports what is free; false where that cannot be told. Looked up once.

    Args:
        devices: The directory of virtio's devices; each has ``device``, its number in hex, and ``features``, a digit
            for each feature that was agreed on.
    """
    return any(_reports(device) for device in devices.glob("*"))


def _reports(device: Path) -> bool:
    try:
        number = int((device / "device").read_text(encoding="ascii"), 16)
        features = (device / "features").read_text(encoding="ascii")
    except (OSError, ValueError):
        return False
    return number == BALLOON and features[REPORTING : REPORTING + 1] == "1"
