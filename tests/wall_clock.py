"""A Python whose wall clock a test sets, and that of all that it starts with itself: supervisord and every service.

Setting the machine's own clock would disturb all else on it; Linux has no namespace for the wall clock.
"""

import mmap
import struct
import sys
import sysconfig
from pathlib import Path

MODULE = """
import mmap, struct, time

with open({path!r}, "rb") as file:
    ahead = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
machine = time.time
time.time = lambda: machine() + struct.unpack("d", ahead)[0]
"""


class WallClock:
    """An environment like this one; ``python`` is its interpreter, whose wall clock begins as the machine's."""

    def __init__(self, place: Path) -> None:
        """Make it below ``place``."""
        packages = place / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        packages.mkdir(parents=True)
        self.python = place / "bin" / "python"
        self.python.parent.mkdir()
        machines = Path(sys.executable).resolve()
        self.python.symlink_to(machines)
        (place / "pyvenv.cfg").write_text(f"home = {machines.parent}\n", encoding="utf-8")
        ahead = place / "ahead_s"
        ahead.write_bytes(struct.pack("d", 0.0))
        with ahead.open("r+b") as file:
            self._ahead = mmap.mmap(file.fileno(), 8)
        (packages / "wall_clock_of_a_test.py").write_text(MODULE.format(path=str(ahead)), encoding="utf-8")
        ours = sysconfig.get_path("purelib")
        lines = f"import site; site.addsitedir({ours!r})\nimport wall_clock_of_a_test\n"
        (packages / "wall_clock_of_a_test.pth").write_text(lines, encoding="utf-8")

    def jump(self, by_s: float) -> None:
        """Set it forward or back, at once."""
        (ahead_s,) = struct.unpack("d", self._ahead[:8])
        self._ahead[:8] = struct.pack("d", ahead_s + by_s)
