"""``scripts/bootstrap.sh``: the environment is whole or absent, and belongs to its place and its Python."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0
COMMAND = (
    'import common\n\n\ndef main() -> None:\n    print(common.__file__)\n\n\nif __name__ == "__main__":\n    main()\n'
)

pytestmark = pytest.mark.slow  # a virtual environment for each


def tree(path: Path) -> Path:
    """Make a tree whose program says where its code is, and that needs no package."""
    for name in ("scripts", "requirements", "cli", "common"):
        (path / name).mkdir(parents=True)
    shutil.copy2(ROOT / "scripts" / "bootstrap.sh", path / "scripts")
    for name in ("build", "run", "load", "dev"):
        (path / "requirements" / f"{name}.txt").write_text(f"# nothing for {name}\n")
    (path / "pyproject.toml").write_text("")
    (path / "common" / "__init__.py").write_text("")
    (path / "cli" / "__init__.py").write_text("")
    (path / "cli" / "__main__.py").write_text(COMMAND)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a tree whose environment was made under a umask that hides everything from others."""
    path = tree(tmp_path_factory.mktemp("made") / "a tree")
    before = os.umask(0o077)
    try:
        done = bootstrap(path)
    finally:
        os.umask(before)
    assert done.returncode == 0, done.stderr
    yield path


def bootstrap(path: Path, profile: str = "run") -> "subprocess.CompletedProcess[str]":
    command = ["bash", "scripts/bootstrap.sh", profile]
    return subprocess.run(command, cwd=path, capture_output=True, text=True, check=False, timeout=PATIENCE_S)


def says(path: Path, **environ: str) -> str:
    """Return whose code the tree's command runs."""
    command = [str(path / ".venv" / "bin" / "autoscaler")]
    done = subprocess.run(command, cwd="/", env=os.environ | environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_it_is_made_once_and_readable_by_others_whatever_the_umask(made: Path) -> None:
    hidden = [path for path in (made / ".venv").rglob("*") if not path.is_symlink() and not path.stat().st_mode & 0o004]
    assert hidden == []
    assert bootstrap(made).stdout == ""
    assert not (made / ".venv.new").exists()
    assert says(made) == f"{made}/common/__init__.py"


def test_another_package_of_the_name_on_pythonpath_is_not_ours(made: Path, tmp_path: Path) -> None:
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "__init__.py").write_text("raise SystemExit('shadowed')\n")
    assert says(made, PYTHONPATH=str(tmp_path)) == f"{made}/common/__init__.py"


def test_a_copy_runs_its_own_code_and_is_made_anew_for_its_place(made: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(made, copy, symlinks=True)
    assert says(copy) == f"{copy}/common/__init__.py"  # even before: `make down` makes nothing
    done = bootstrap(copy)
    assert "made elsewhere" in done.stdout
    named = [
        path
        for path in (copy / ".venv" / "bin").iterdir()
        if not path.is_symlink() and str(made).encode() in path.read_bytes()
    ]
    assert (done.returncode, named) == (0, [])
    pip = subprocess.run([copy / ".venv" / "bin" / "pip", "--version"], capture_output=True, text=True, check=True)
    assert str(copy / ".venv" / "lib") in pip.stdout


def interrupted(path: Path) -> None:
    """Press Ctrl-C while the environment is being made."""
    quiet = subprocess.DEVNULL
    command = ["bash", "scripts/bootstrap.sh", "run"]
    process = subprocess.Popen(command, cwd=path, stdout=quiet, stderr=quiet, start_new_session=True)
    python = path / ".venv.new" / "bin" / "python"
    wait_until(python.exists, "the environment is being made", PATIENCE_S, every_s=0.01)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(PATIENCE_S) != 0


def test_one_of_another_python_is_made_anew_and_stays_until_the_new_one_is_whole(made: Path) -> None:
    stamp = made / ".venv" / ".installed"
    good = stamp.read_text()
    stamp.write_text(good.replace("cpython-3", "cpython-2"))
    interrupted(made)
    stamp.write_text(good)
    assert not (made / ".venv.new").exists()
    assert says(made) == f"{made}/common/__init__.py"


def test_more_packages_come_on_top_of_what_is_there(made: Path) -> None:
    (made / ".venv" / "kept").touch()
    assert bootstrap(made, "load").returncode == 0
    assert (made / ".venv" / "kept").exists()
    assert bootstrap(made, "run").stdout == ""
    assert says(made) == f"{made}/common/__init__.py"


def test_interrupted_it_leaves_none_and_then_two_at_once_make_one(tmp_path: Path) -> None:
    path = tree(tmp_path / "tree")
    interrupted(path)
    assert not (path / ".venv").exists()
    command = ["bash", "scripts/bootstrap.sh", "run"]
    both = [subprocess.Popen(command, cwd=path, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=2 * PATIENCE_S)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted("making the virtual environment" in text for text in told) == [False, True]
    assert any("another make prepares this directory" in text for text in told)
    assert says(path) == f"{path}/common/__init__.py"
