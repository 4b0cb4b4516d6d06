"""Files are replaced whole, and whoever shares the directory can neither aim them elsewhere nor spoil them."""

import fcntl
import os
import re
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common import files
from common.run_dir import new_run_id

STRANGER = 10001
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="plants what another user owns")

# One for each way to write: what would follow a link at the end of the path, or one in the middle.
WAYS: dict[str, Callable[[Path], object]] = {
    "replace_file": lambda path: files.replace_file(path, b"ours", mode=0o600, is_durable=True),
    "make_file": lambda path: files.make_file(path, b"ours", mode=0o600),
    "open_lock": lambda path: os.close(files.open_lock(path)),
    "set_mode": lambda path: files.set_mode(path, 0o777),
    "ensure_dir": lambda path: files.ensure_dir(path, 0o777),
}


@pytest.fixture(autouse=True)
def odd_umask() -> Iterator[None]:
    before = os.umask(0o007)
    yield
    os.umask(before)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Return a directory as the run directory is where several users have it."""
    directory = tmp_path / "shared"
    directory.mkdir()
    directory.chmod(0o3770)
    return directory


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Return a file that nothing here may touch."""
    path = tmp_path / "secret"
    path.write_bytes(b"root's")
    path.chmod(0o640)
    return path


def plant(link: Path, target: Path) -> None:
    link.symlink_to(target)
    os.chown(link, STRANGER, STRANGER, follow_symlinks=False)


def untouched(path: Path) -> bool:
    found = path.stat()
    return path.read_bytes() == b"root's" and (found.st_uid, stat.S_IMODE(found.st_mode)) == (os.geteuid(), 0o640)


def test_a_file_is_replaced_with_the_mode_that_is_stated_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.replace_file(path, b"one", mode=0o600, is_durable=False)
    files.replace_file(path, b"two", mode=0o664, is_durable=True)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"two", 0o664)
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_a_directory_is_made_with_the_mode_that_is_stated_and_one_that_is_there_stays(tmp_path: Path) -> None:
    files.ensure_dir(tmp_path / "a" / "b", 0o711)
    files.ensure_dir(tmp_path / "a" / "b", 0o700)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a", tmp_path / "a" / "b")] == [0o755, 0o711]


@needs_root
@pytest.mark.parametrize("way", WAYS)
def test_a_planted_link_at_the_end_of_the_path_is_not_followed(shared: Path, secret: Path, way: str) -> None:
    plant(shared / "name", secret)
    try:
        WAYS[way](shared / "name")
    except OSError as error:
        assert str(shared / "name") in str(error)
    assert untouched(secret)


@needs_root
@pytest.mark.parametrize("aside", ["name.new", ".name.new", "name.run.new"])
def test_a_link_planted_under_the_name_of_the_file_aside_is_not_followed(
    shared: Path, secret: Path, aside: str
) -> None:
    plant(shared / aside, secret)
    files.replace_file(shared / "name", b"ours", mode=0o600, is_durable=True)
    assert untouched(secret)
    assert (shared / "name").read_bytes() == b"ours"
    assert not (shared / "name").is_symlink()


@needs_root
@pytest.mark.parametrize("way", WAYS)
def test_a_link_that_another_user_planted_on_the_way_is_refused(tmp_path: Path, shared: Path, way: str) -> None:
    own = tmp_path / "own"
    own.mkdir(mode=0o700)
    (own / "there").write_bytes(b"root's")
    (own / "there").chmod(0o640)
    plant(shared / "actuator", own)
    for name in ("there", "new"):
        with pytest.raises(PermissionError, match=f"belongs to user {STRANGER}; remove it"):
            WAYS[way](shared / "actuator" / name)
    assert untouched(own / "there")
    assert [path.name for path in own.iterdir()] == ["there"]


def test_a_link_of_the_operators_own_is_followed_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "disk" / "state").mkdir(parents=True)
    (tmp_path / "state").symlink_to(tmp_path / "disk" / "state")
    (tmp_path / "again").symlink_to("state")
    files.replace_file(tmp_path / "again" / "file", b"ours", mode=0o600, is_durable=True)
    assert (tmp_path / "disk" / "state" / "file").read_bytes() == b"ours"


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="too many links"):
        files.ensure_dir(tmp_path / "a" / "c", 0o700)


def test_nothing_is_made_where_a_link_points_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "mounted").symlink_to("disk/state")
    for path in (tmp_path / "mounted", tmp_path / "mounted" / "more"):
        with pytest.raises(FileNotFoundError):
            files.ensure_dir(path, 0o700)
    (tmp_path / "disk" / "state").mkdir(parents=True)
    files.ensure_dir(tmp_path / "mounted" / "more" / "still", 0o700)
    assert (tmp_path / "disk" / "state" / "more" / "still").is_dir()


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError, match="must be a regular file"):
        files.replace_file(tmp_path / "pipe", b"", mode=0o600, is_durable=False)
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("what", ["file", "pipe", "link", "directory"])
def test_what_was_left_under_the_name_aside_does_not_stand_in_the_way(tmp_path: Path, what: str) -> None:
    aside = tmp_path / "name.new"
    {
        "file": lambda: aside.write_bytes(b"half"),
        "pipe": lambda: os.mkfifo(aside),
        "link": lambda: aside.symlink_to("nowhere"),
        "directory": aside.mkdir,
    }[what]()
    files.replace_file(tmp_path / "name", b"whole", mode=0o600, is_durable=True)
    assert (tmp_path / "name").read_bytes() == b"whole"
    left = {path.name for path in tmp_path.iterdir()} - {"name"}
    assert left == ({"name.new"} if what == "directory" else set())


def test_writers_of_one_file_at_once_leave_one_of_them_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    texts = [bytes([letter]) * 100_000 for letter in b"abcd"]

    def write(text: bytes) -> None:
        for _ in range(40):
            files.replace_file(path, text, mode=0o600, is_durable=False)
            assert path.read_bytes() in texts

    failed: list[BaseException] = []

    def run(text: bytes) -> None:
        try:
            write(text)
        except BaseException as error:  # noqa: BLE001 - told in the test's own thread
            failed.append(error)

    threads = [threading.Thread(target=run, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_a_file_that_is_being_written_is_not_taken_for_one_that_was_left(tmp_path: Path) -> None:
    with (tmp_path / "name.new").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        files.replace_file(tmp_path / "name", b"ours", mode=0o600, is_durable=False)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["name", "name.new"]


def test_a_disk_that_refuses_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    (tmp_path / "over").mkdir()
    with pytest.raises(OSError, match="over"):
        files.replace_file(tmp_path / "over", b"new", mode=0o600, is_durable=True)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["file", "over"]


def test_a_file_is_made_only_where_there_is_none(tmp_path: Path) -> None:
    files.make_file(tmp_path / "key", b"one", mode=0o640)
    with pytest.raises(FileExistsError, match="key"):
        files.make_file(tmp_path / "key", b"two", mode=0o640)
    assert (tmp_path / "key").read_bytes() == b"one"
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o640


def test_a_lock_file_is_a_regular_one_with_one_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "secret").write_bytes(b"root's")
    (tmp_path / "second").hardlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="must be a regular file"):
        files.open_lock(tmp_path / "pipe")
    with pytest.raises(OSError, match="has a second name"):
        files.open_lock(tmp_path / "second")
    os.close(files.open_lock(tmp_path / "new"))
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600
    assert (tmp_path / "secret").read_bytes() == b"root's"


@needs_root
def test_a_lock_file_that_another_user_planted_is_refused(shared: Path) -> None:
    (shared / "actuator.lock").write_bytes(b"")
    os.chown(shared / "actuator.lock", STRANGER, STRANGER)
    with pytest.raises(PermissionError, match=f"belongs to user {STRANGER}; remove it"):
        files.open_lock(shared / "actuator.lock")


@needs_root
def test_giving_away_keeps_links_and_what_has_a_second_name(tmp_path: Path, secret: Path) -> None:
    top = tmp_path / "top"
    (top / "inner").mkdir(parents=True)
    (top / "inner" / "file").write_bytes(b"")
    (top / "kept").write_bytes(b"")
    (top / "link").symlink_to(secret)
    (top / "inner" / "second").hardlink_to(secret)
    files.give_below(top, STRANGER, STRANGER, lambda name: name == "kept")
    owners = {path.name: path.lstat().st_uid for path in sorted(top.rglob("*"))}
    assert owners == {"inner": STRANGER, "file": STRANGER, "second": 0, "kept": 0, "link": 0}
    assert untouched(secret)


@pytest.mark.parametrize(
    ("mode", "above", "why"),
    [
        (0o644, 0o755, ""),
        (0o600, 0o700, ""),
        (0o644, 0o1777, ""),
        (0o644, 0o1771, ""),
        (0o664, 0o755, r"others may change .*/file \(mode 0664\): chmod go-w .*/file"),
        (0o646, 0o755, r"others may change .*/file \(mode 0646\): chmod go-w .*/file"),
        (0o644, 0o775, r"others may change .*/top \(mode 0775\): chmod go-w .*/top"),
        (0o644, 0o757, r"others may change .*/top \(mode 0757\): chmod go-w .*/top"),
    ],
)
def test_what_others_may_change_is_not_trusted(tmp_path: Path, mode: int, above: int, why: str) -> None:
    path = tmp_path / "top" / "inner" / "file"
    path.parent.mkdir(parents=True, mode=0o700)
    path.write_bytes(b"<domain/>")
    path.chmod(mode)
    path.parent.parent.chmod(above)
    assert re.fullmatch(why, files.why_open(path)), files.why_open(path)
    if why:
        with pytest.raises(PermissionError, match=why):
            files.read_trusted(path, 100)
    else:
        assert files.read_trusted(path, 100) == b"<domain/>"


@needs_root
@pytest.mark.parametrize("whose", ["file", ".", "link"])
def test_what_belongs_to_another_user_is_not_trusted(tmp_path: Path, whose: str) -> None:
    path = tmp_path / "top" / "file"
    path.parent.mkdir(mode=0o755)
    path.write_bytes(b"<domain/>")
    path.chmod(0o644)
    (path.parent / "link").symlink_to("file")
    assert files.why_open(path.parent / "link") == ""
    os.chown(path.parent / whose, STRANGER, STRANGER, follow_symlinks=False)
    seen = path.parent / ("link" if whose == "link" else "file")
    assert re.search(rf"user {STRANGER}\b", files.why_open(seen))
    with pytest.raises(PermissionError):
        files.read_trusted(seen, 100)


@pytest.mark.parametrize("what", ["pipe", "link", "directory"])
def test_what_was_planted_in_place_of_a_file_holds_no_reader_up_and_leads_nowhere(tmp_path: Path, what: str) -> None:
    (tmp_path / "real").write_bytes(b"7")
    assert files.read_file(tmp_path / "real", 64) == b"7"
    path = tmp_path / "actuator.run"
    {"pipe": lambda: os.mkfifo(path), "link": lambda: path.symlink_to("real"), "directory": path.mkdir}[what]()
    with pytest.raises(OSError, match=r"actuator\.run"):
        files.read_file(path, 64)
    assert new_run_id((path,), 100.0) == new_run_id((tmp_path / "none.run",), 100.0)
