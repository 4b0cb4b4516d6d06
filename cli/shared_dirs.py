"""The run and state directories as several users need them: root's, and open to the group that these share.

# Note [Several users, two directories]
libvirt's read-write socket is root's, so the actuator is root, without capabilities; the others are one unprivileged
user. All have one group in common. The directories belong to root and that group, with the sticky bit: each makes its
own sockets and stores there, and none removes or replaces what the other user made: not the actuator's socket, not the
images that libvirt boots. In the run directory new files take its group, and the containers' umask (007) lets the group
use the sockets.

The actuator's container opens the directories at each start (it owns them, which takes no capability), so they are
right again after the machine's boot emptied ``/run``. What an earlier native run left belongs to root alone;
``hand_over`` gives it away, and ``take_back`` returns everything to the native form. Both need a real root.

The installed units have two accounts for the same reason; systemd-tmpfiles opens their directories.
"""

import grp
import os
import sys
from pathlib import Path

from common import files
from common.config import System
from common.config_file import load
from common.errors import AutoscalerError
from common.run_dir import is_shared

SHARED_RUN, SHARED_STATE = 0o3770, 0o1771  # QEMU's own user passes through the state directory to the images
UNITS_GROUP = "libvirt-autoscaler"  # packaging/systemd/sysusers.conf
PRIVATE_RUN, PRIVATE_STATE = 0o700, 0o711
ROOTS_OWN = (
    "actuator",
    "control-actuator",
    "in-force",
    "acceleration",
    "images",
    "console",
    "log",
    "supervisord",
    "up.",
    "started.",
    "load-",
)


def share(system: System, gid: int) -> None:
    """Open both directories to the group.

    Raises:
        AutoscalerError: they are not ours, or cannot be made.
    """
    for path, mode in ((system.run_path, SHARED_RUN), (system.state_path, SHARED_STATE)):
        try:
            files.ensure_dir(path, 0o700)
            files.give(path, -1, gid, mode)
        except OSError as error:
            raise AutoscalerError(f"{path} cannot be shared with group {gid}: {error.strerror}") from error


def hand_over(system: System, uid: int, gid: int) -> None:
    """Share the directories, and give the unprivileged user what its services left when they were root's."""
    share(system, gid)
    for top in (system.run_path, system.state_path):
        files.give_below(top, uid, gid, _is_roots)


def are_shared(system: System) -> bool:
    """Return whether containers use the directories: since they were opened, nobody has taken them back."""
    path = system.run_path
    return path.is_dir() and is_shared(path.lstat()) and not belong_to_units(path)


def belong_to_units(run_path: Path) -> bool:
    """Return whether the installed systemd units have the run directory."""
    try:
        return is_shared(run_path.lstat()) and grp.getgrgid(run_path.lstat().st_gid).gr_name == UNITS_GROUP
    except (OSError, KeyError):
        return False


def refuse_units(system: System) -> None:
    """Refuse to go on where the installed units look after the domains.

    Raises:
        AutoscalerError: they have the directories.
    """
    if belong_to_units(system.run_path):
        raise AutoscalerError(
            f"{system.run_path} is that of the installed units: use systemctl, or first: make uninstall"
        )


def take_back(system: System) -> None:
    """Make everything root's own again, if it was shared."""
    if not are_shared(system):
        return
    for top, mode in ((system.run_path, PRIVATE_RUN), (system.state_path, PRIVATE_STATE)):
        files.give(top, 0, 0, mode)
        files.give_below(top, 0, 0, _is_roots)


def _is_roots(name: str) -> bool:
    return name.startswith(ROOTS_OWN)


def main() -> int:
    """Share the directories with the containers' group; what the actuator's container does first."""
    try:
        config, _digest = load(Path(os.environ["AUTOSCALER_CONFIG"]))
        share(config.system, int(os.environ["LIBVIRT_AUTOSCALER_GID"]))
    except AutoscalerError as error:
        print(f"autoscaler: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
