"""Who may open /dev/kvm, by its group and mode."""

import grp
import os
from pathlib import Path

import pytest

from cli.kvm_device import why_closed

OURS = grp.getgrgid(os.getgid()).gr_name
OTHER = next(group.gr_name for group in grp.getgrall() if group.gr_gid != os.getgid())


@pytest.mark.parametrize(
    ("mode", "group", "is_open"),
    [
        (0o660, OURS, True),
        (0o666, OTHER, True),
        (0o600, OURS, False),
        (0o640, OURS, False),
        (0o660, OTHER, False),
        (0o606, OURS, False),
        (0o600, "no-such-group", True),
    ],
)
def test_the_group_needs_to_read_and_write(tmp_path: Path, mode: int, group: str, is_open: bool) -> None:
    device = tmp_path / "kvm"
    device.touch()
    device.chmod(mode)
    os.chown(device, -1, os.getgid())
    assert (why_closed(device, group) == "") is is_open


def test_where_there_is_no_device_nothing_is_closed(tmp_path: Path) -> None:
    assert why_closed(tmp_path / "kvm", OURS) == ""


def test_it_is_told_whose_the_device_is(tmp_path: Path) -> None:
    device = tmp_path / "kvm"
    device.touch()
    device.chmod(0o600)
    gid = grp.getgrnam(OURS).gr_gid
    assert why_closed(device, OURS) == f"the group {OURS} ({gid}) may not open {device}: it belongs to group {gid}, 600"
