"""The configuration in force: kept, believed, and used by commands while the file is wrong."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.in_force import find, usable
from common import config_file, in_force
from common.errors import ConfigError
from common.process import RUN_DIR_VARIABLE, configured

TEXT = (
    '\ufeff[system]\r\nrun_dir = "{0}/run"\nstate_dir = "{0}/state"\n[groups.web]\nprefix = "web-"\nmax = 3 # \u00e4\n'
)
VARIABLES = {"AUTOSCALER_GROUPS__WEB__MIN": "2"}
Break = Callable[[Path], object]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a good file that is in force."""
    path = tmp_path / "autoscaler.toml"
    path.write_bytes(TEXT.format(tmp_path).encode())
    loaded = config_file.read(path, {**VARIABLES, "HOME": "/root"})
    loaded.config.system.run_path.mkdir(mode=0o700)
    in_force.keep(loaded.config.system.run_path, loaded.source)
    return path


def kept(path: Path) -> Path:
    return in_force.place(path.parent / "run")


def test_what_is_kept_is_the_very_same_configuration_whatever_the_variables_are_now(path: Path) -> None:
    old, new = config_file.read(path, VARIABLES), config_file.read(kept(path), {"AUTOSCALER_GROUPS__WEB__MIN": "x"})
    assert (new.config, new.digest) == (old.config, old.digest)
    assert new.config.groups["web"].minimum == 2


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_its_owner_and_group_may_read_it_whatever_the_umask(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        in_force.keep(path.parent / "run", in_force.read(kept(path)))
    finally:
        os.umask(before)
    assert kept(path).stat().st_mode & 0o777 == 0o640
    assert not list(kept(path).parent.glob("*.new"))


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda path: path.write_text(path.read_text() + "mx = 3\n"), "autoscaler.toml:7: groups.web.mx: unknown key"),
        (lambda path: path.write_text('[system\nrun_dir = "' + str(path.parent / "run") + '"\n'), "not valid TOML"),
        (lambda path: path.write_bytes(b"\xff" + path.read_bytes()), "not UTF-8 at byte 0"),
        (lambda path: path.write_text(path.read_text().replace("state_dir = ", "stat = ")), "stat"),
    ],
)
def test_a_wrong_file_is_told_with_line_and_key_and_what_is_used_instead(
    path: Path, break_it: Break, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert usable(path, {}).path == path
    assert capsys.readouterr().err == ""
    break_it(path)
    assert usable(path, {}).path == kept(path)
    told = capsys.readouterr().err
    assert said in told
    assert f"used instead: {path} as it was last taken over ({kept(path)})" in told


def absent(path: Path) -> None:
    path.unlink()


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("break_it", [absent, directory])
def test_a_file_that_tells_no_run_directory_is_looked_for_where_the_environment_says(
    path: Path, break_it: Break, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_it(path)
    assert usable(path, {"AUTOSCALER_SYSTEM__RUN_DIR": str(path.parent / "run")}).path == kept(path)
    monkeypatch.chdir(path.parent)  # where none is named, each place where one is looked for is meant
    assert usable(None, {"AUTOSCALER_SYSTEM__RUN_DIR": str(path.parent / "run")}).path == kept(path)


def test_wrong_variables_are_told_too(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert usable(path, {"AUTOSCALER_GROUPS__WEB__MX": "3"}).path == kept(path)
    assert "AUTOSCALER_GROUPS__WEB__MX" in capsys.readouterr().err


def test_what_another_file_has_in_force_is_not_used(path: Path) -> None:
    other = path.with_name("other.toml")
    other.write_text(path.read_text(encoding="utf-8-sig") + "mx = 3\n")
    with pytest.raises(ConfigError, match="mx"):
        usable(other, {})
    path.rename(path.with_name("moved.toml"))
    with pytest.raises(ConfigError, match="cannot be read"):
        usable(path.with_name("gone.toml"), {"AUTOSCALER_SYSTEM__RUN_DIR": str(path.parent / "run")})


def link(kept_at: Path) -> None:
    kept_at.rename(kept_at.with_name("other"))
    kept_at.symlink_to("other")


def own_by_nobody(kept_at: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    os.chown(kept_at, 65534, 0)


@pytest.mark.parametrize(
    "spoil",
    [
        link,
        own_by_nobody,
        lambda kept_at: kept_at.chmod(0o660),
        lambda kept_at: kept_at.write_bytes(b"{"),
        lambda kept_at: kept_at.write_bytes(b"[" * 100_000),
        lambda kept_at: kept_at.write_text("[]"),
        lambda kept_at: kept_at.write_text('{"path": 3, "text": "", "variables": {}}'),
        lambda kept_at: kept_at.write_text('{"path": "/a", "text": "", "variables": {"A": 1}}'),
        lambda kept_at: kept_at.write_text(kept_at.read_text().replace("max = 3", "max = -3")),
    ],
)
def test_what_is_not_to_be_believed_is_not_used(path: Path, spoil: Break) -> None:
    spoil(kept(path))
    assert find([path], {}) is None
    path.write_text("mx = 3\n")
    with pytest.raises(ConfigError, match="mx"):
        usable(path, {"AUTOSCALER_SYSTEM__RUN_DIR": str(path.parent / "run")})


def test_a_service_that_its_supervisor_starts_again_goes_on_with_what_is_in_force(path: Path) -> None:
    environ = {"SUPERVISOR_ENABLED": "1", RUN_DIR_VARIABLE: str(path.parent / "run")}
    digest = config_file.read(path, VARIABLES).digest
    assert configured(path, environ)[1] == ""
    absent(path)
    loaded, fault = configured(path, environ)
    assert (loaded.digest, loaded.source.path) == (digest, path)
    assert "No such file or directory; it runs with what was last taken over" in fault
    for other in ({"SUPERVISOR_ENABLED": "1"}, {RUN_DIR_VARIABLE: str(path.parent / "run")}):
        with pytest.raises(ConfigError, match="cannot be read"):
            configured(path, other)
    with pytest.raises(ConfigError, match="cannot be read"):
        configured(path.with_name("other"), environ)
