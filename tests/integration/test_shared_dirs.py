"""The directories that containers share: real files, real owners."""

import contextlib
import grp
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli import shared_dirs, stack
from common.bus import Bus
from common.clock import SystemClock
from common.config import Config, Group, Image, Network, System
from common.errors import AutoscalerError, BusError
from common.messages import ServiceStatus
from common.run_dir import ensure_run_dir, is_shared
from services.actuator.images import Images

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="giving files to other users needs root")
UID, GID = 10001, 10002
CLOCK = SystemClock()


@pytest.fixture
def system() -> Iterator[System]:
    """Return directories that other users can reach; pytest's own are closed to them."""
    with tempfile.TemporaryDirectory(prefix="ase-", dir="/var/tmp") as home:
        Path(home).chmod(0o711)
        yield System(run_dir=f"{home}/run", state_dir=f"{home}/state")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_a_native_run_left_is_given_to_the_unprivileged_user_but_not_the_actuators_own(system: System) -> None:
    for path in (system.run_path, system.state_path / "recording", system.state_path / "actuator"):
        path.mkdir(parents=True)
    decider, segment = system.run_path / "decider.lock", system.state_path / "recording" / "1.seg"
    actuator, copy = system.run_path / "actuator.lock", system.state_path / "actuator" / "vmlinuz"
    load = system.run_path / "load-web.lock"
    for file in (decider, segment, actuator, copy, load):
        file.touch(0o600)
    shared_dirs.hand_over(system, UID, GID)
    assert (decider.stat().st_uid, segment.stat().st_uid) == (UID, UID)
    assert (actuator.stat().st_uid, copy.stat().st_uid) == (0, 0)
    assert load.stat().st_uid == 0, "the operator's load takes it again"
    assert (mode(system.run_path), mode(system.state_path)) == (0o3770, 0o1771)
    assert shared_dirs.are_shared(system)


def test_a_link_in_a_shared_directory_gives_away_nothing_else(system: System, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").touch(0o600)
    system.run_path.mkdir()
    (system.run_path / "x").symlink_to(outside / "secret")
    (system.run_path / "y").symlink_to(outside)
    shared_dirs.hand_over(system, UID, GID)
    assert (outside / "secret").stat().st_uid == outside.stat().st_uid == 0


def test_nothing_else_is_given_away_while_the_other_user_swaps_a_directory_for_a_link(system: System) -> None:
    """A swap within the walk; by path, files of a directory that is closed to all others changed hands."""
    shared_dirs.share(system, GID)
    home = system.run_path.parent
    closed = home / "closed"
    closed.mkdir(mode=0o700)
    for number in range(200):
        (closed / f"{number:03}").touch(0o600)
    inner, aside = system.state_path / "recording", system.state_path / "aside"
    (inner / "more").mkdir(parents=True)
    for path in (inner, inner / "more"):
        os.chown(path, UID, GID)
    for number in range(200):  # the same names: what is listed in one is found in the other
        (inner / f"{number:03}").touch(0o600)
        (inner / "more" / f"{number:03}").touch(0o600)
    stop = home / "stop"

    def swap() -> str:
        swaps = 0
        for path in (system.state_path / "link", inner / "link"):
            path.symlink_to(closed)
        while not stop.exists():
            inner.rename(aside)
            (system.state_path / "link").rename(inner)
            inner.rename(system.state_path / "link")
            aside.rename(inner)
            (inner / "more").rename(inner / "aside")
            (inner / "link").rename(inner / "more")
            (inner / "more").rename(inner / "link")
            (inner / "aside").rename(inner / "more")
            swaps += 1
        return str(swaps)

    end = begun_as(UID, GID, swap)
    until_s = CLOCK.monotonic_s() + 2
    while CLOCK.monotonic_s() < until_s:
        with contextlib.suppress(OSError):  # what it wants to look into is a link at this moment
            shared_dirs.hand_over(system, UID, GID)
    stop.touch()
    assert int(end()) > 0
    assert {path.stat().st_uid for path in (closed, *closed.iterdir())} == {0}


def test_taken_back_everything_is_roots_and_closed(system: System) -> None:
    shared_dirs.share(system, GID)
    left = system.run_path / "decider.sock"
    left.touch()
    os.chown(left, UID, GID)
    shared_dirs.take_back(system)
    assert not shared_dirs.are_shared(system)
    assert (mode(system.run_path), mode(system.state_path), left.stat().st_uid) == (0o700, 0o711, 0)


def test_what_the_installed_units_share_is_no_containers_and_is_left_alone(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared_dirs.share(system, grp.getgrnam("daemon").gr_gid)
    assert shared_dirs.are_shared(system)
    monkeypatch.setattr(shared_dirs, "UNITS_GROUP", "daemon")
    assert not shared_dirs.are_shared(system)
    with pytest.raises(AutoscalerError, match=f"{system.run_path} is that of the installed units"):
        shared_dirs.refuse_units(system)
    stack.prepare_directories(system)
    assert (mode(system.run_path), mode(system.state_path)) == (0o3770, 0o1771)


def test_taking_back_what_is_not_shared_changes_nothing(system: System) -> None:
    system.run_path.mkdir(mode=0o700)
    shared_dirs.take_back(system)
    assert mode(system.run_path) == 0o700
    assert not system.state_path.exists()


def test_a_path_that_is_a_file_cannot_be_shared(system: System) -> None:
    system.run_path.touch()
    with pytest.raises(AutoscalerError, match=f"{system.run_path} cannot be shared with group {GID}: Not a directory"):
        shared_dirs.share(system, GID)


def as_user(uid: int, gid: int, path: Path) -> str:
    """Return what ``ensure_run_dir`` says to another user, in a process of its own."""

    def look() -> str:
        try:
            ensure_run_dir(path)
            return "ok"
        except BusError as error:
            return str(error)

    return begun_as(uid, gid, look)()


def begun_as(uid: int, gid: int, act: Callable[[], str]) -> Callable[[], str]:
    """Begin to act as another user in a process of its own; what comes back waits for the end, and for what it says."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
        os.umask(0o007)
        try:
            os.write(writer, act().encode())
        finally:
            os._exit(0)
    os.close(writer)

    def end() -> str:
        os.waitpid(pid, 0)
        with os.fdopen(reader) as pipe:
            return pipe.read()

    return end


def test_services_of_two_accounts_hear_each_other_and_keep_their_own_sockets(system: System) -> None:
    """As the installed units: the actuator has an account of its own, and the group in common."""
    shared_dirs.share(system, GID)
    config = Config(system=system, groups={"web": Group(prefix="web-")})

    def talk(name: str, other: str) -> str:
        bus = Bus.open(config, name, CLOCK)
        bus.subscribe(other, "service")
        end_s, heard = CLOCK.monotonic_s() + 3, set[str]()  # as long for both: neither goes before it was heard
        while CLOCK.monotonic_s() < end_s:
            bus.publish(ServiceStatus(name=name, pid=1, started_at_s=0, release="0"))
            heard |= {message.topic for message in bus.receive(0.05).messages}
        bus.close()
        return ",".join(heard)

    ends = [begun_as(UID, GID, lambda: talk("decider", "actuator"))]
    ends.append(begun_as(UID + 1, GID, lambda: talk("actuator", "decider")))
    assert [end() for end in ends] == ["service.actuator", "service.decider"]
    owners = {path.name: path.stat().st_uid for path in system.run_path.glob("*.lock")}
    assert owners == {"decider.lock": UID, "actuator.lock": UID + 1}


def test_what_root_has_copied_serves_the_actuators_account(system: System) -> None:
    shared_dirs.share(system, GID)
    image = Image(disk="/srv/base.qcow2")

    def look() -> str:
        try:
            return Images(system.state_path).of(image, Network()).console_dir
        except OSError as error:
            return str(error)

    assert begun_as(0, 0, look)() == begun_as(UID, GID, look)() == str(system.state_path / "actuator" / "console")


def test_a_shared_run_directory_serves_its_group_and_nobody_else(system: System) -> None:
    shared_dirs.share(system, GID)
    assert as_user(UID, GID, system.run_path) == "ok"
    assert f"is shared by group {GID}; user {UID} is not in it" in as_user(UID, GID + 1, system.run_path)
    assert is_shared(system.run_path.stat())


def test_without_sharing_the_run_directory_is_its_owners_alone(system: System) -> None:
    system.run_path.mkdir(mode=0o700)
    assert f"belongs to user 0; it must belong to user {UID}" in as_user(UID, GID, system.run_path)
