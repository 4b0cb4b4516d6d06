"""``make install`` into a directory: what it installs runs without the source tree; systemd, man and bash accept it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.services import ALL_SERVICES

ROOT = Path(__file__).parents[2]
LIB = Path("/usr/local/lib/libvirt-autoscaler")
UNITS = Path("/usr/local/lib/systemd/system")
RUNNING = """
case $1 in list-units)
	for unit in monitor former; do echo "libvirt-autoscaler@$unit.service loaded active running x"; done ;;
esac
"""
WORST_SCORE = 2.0  # of 10; systemd's word for it is "OK"


def make(target: str, destdir: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    words = [f"{name}={value}" for name, value in variables.items()]
    command = ["make", "-s", target, f"DESTDIR={destdir}", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def destdir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the root of an installation; all tests of this module look at the same one."""
    path = tmp_path_factory.mktemp("installed")
    done = make("install", path)
    assert done.returncode == 0, done.stderr
    yield path
    shutil.rmtree(path, ignore_errors=True)


def run(destdir: Path, *arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    """Run the installed command as its launcher does."""
    lib = destdir / LIB.relative_to("/")
    command = [str(lib / "bin" / "python3"), "-IB", "-m", "cli", *arguments]
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environ}
    return subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=False)


def files(destdir: Path) -> set[str]:
    """Return every file but the packages."""
    found = (path for path in destdir.rglob("*") if path.is_file() or path.is_symlink())
    return {f"/{path.relative_to(destdir)}" for path in found if "libvirt-autoscaler/" not in str(path)}


def test_everything_is_where_the_system_looks_for_it(destdir: Path) -> None:
    assert files(destdir) >= {
        "/usr/local/bin/autoscaler",
        "/usr/local/share/man/man1/autoscaler.1",
        "/usr/local/share/bash-completion/completions/autoscaler",
        "/usr/local/share/zsh/site-functions/_autoscaler",
        "/usr/local/share/fish/vendor_completions.d/autoscaler.fish",
        "/usr/local/lib/systemd/system/libvirt-autoscaler.target",
        "/usr/local/lib/sysusers.d/libvirt-autoscaler.conf",
        "/usr/local/lib/tmpfiles.d/libvirt-autoscaler.conf",
    }
    launcher = destdir / "usr/local/bin/autoscaler"
    assert launcher.stat().st_mode & 0o777 == 0o755
    assert f"exec {LIB}/bin/python3 -IB -m cli" in launcher.read_text()
    shipped = (ROOT / "autoscaler.toml").read_text()
    assert (destdir / "etc/libvirt-autoscaler/autoscaler.toml").read_text() == shipped


def test_what_is_installed_runs_without_the_source_tree_and_knows_nothing_of_destdir(destdir: Path) -> None:
    done = run(destdir, "--version")
    assert (done.returncode, done.stdout.startswith("autoscaler ")) == (0, True), done.stderr
    lib = destdir / LIB.relative_to("/")
    code = "import common, cli.main, libvirt, zmq, matplotlib, sys; print(common.__file__, zmq.__file__, sys.prefix)"
    where = subprocess.run(
        [str(lib / "bin" / "python3"), "-IB", "-c", code],
        cwd="/",
        env={"PATH": os.environ["PATH"], "MPLCONFIGDIR": str(destdir)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert all(path.startswith(str(lib)) for path in where)
    texts = [lib / "pyvenv.cfg", lib / "installed-files", *lib.glob("lib/*/*/*.pth")]
    assert len(texts) >= 3
    assert not any(str(destdir) in path.read_text() or str(ROOT) in path.read_text() for path in texts)


def test_the_units_are_what_systemd_accepts(destdir: Path, tmp_path: Path) -> None:
    units = here(destdir, tmp_path)
    services = [f"libvirt-autoscaler@{name}.service" for name in ALL_SERVICES]
    names = ["libvirt-autoscaler.target", *services, "libvirt-autoscaler-haproxy.service"]
    done = verified(
        units, *names, *(f"libvirt-autoscaler-{what}.service" for what in ("forget-capacity", "remove-domains"))
    )
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)
    target = (units / "libvirt-autoscaler.target").read_text()
    assert all(f"Wants={name}\n" in target for name in names[1:])
    wrong = units / "libvirt-autoscaler@.service"
    wrong.write_text(wrong.read_text().replace("PrivateTmp=", "PrivateTemp="))
    assert "Unknown key 'PrivateTemp'" in verified(units, services[0]).stderr


@pytest.mark.parametrize(
    "unit",
    [
        *(f"libvirt-autoscaler@{name}" for name in ALL_SERVICES),
        "libvirt-autoscaler-haproxy",
        "libvirt-autoscaler-forget-capacity",
        "libvirt-autoscaler-remove-domains",
    ],
)
def test_a_unit_gives_away_little(destdir: Path, tmp_path: Path, unit: str) -> None:
    environ = os.environ | {"SYSTEMD_UNIT_PATH": f"{here(destdir, tmp_path)}:"}
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", f"{unit}.service"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    score = float(done.stdout.rpartition("exposure level for")[2].split(":")[1].split()[0])
    assert score <= WORST_SCORE, done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="giving directories to other users needs root")
def test_the_actuator_has_an_account_of_its_own_and_shares_two_directories_with_the_others(
    destdir: Path, tmp_path: Path
) -> None:
    (tmp_path / "etc").mkdir()
    for command, place in ((["systemd-sysusers"], "sysusers.d"), (["systemd-tmpfiles", "--create"], "tmpfiles.d")):
        text = (destdir / f"usr/local/lib/{place}/libvirt-autoscaler.conf").read_bytes()
        subprocess.run([*command, f"--root={tmp_path}", "-"], input=text, check=True, capture_output=True)
    accounts = {line.split(":")[0]: line.split(":") for line in (tmp_path / "etc/passwd").read_text().splitlines()}
    groups = {line.split(":")[0]: line.split(":") for line in (tmp_path / "etc/group").read_text().splitlines()}
    shared = groups["libvirt-autoscaler"][2]
    assert groups["libvirt"][3] == "libvirt-autoscaler-actuator"
    assert {accounts[name][3] for name in ("libvirt-autoscaler", "libvirt-autoscaler-actuator")} == {shared}
    for path, mode in (("run", 0o3770), ("var/lib", 0o1771)):
        found = (tmp_path / path / "libvirt-autoscaler").stat()
        assert (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (mode, 0, int(shared))
    own = (tmp_path / "var/lib/libvirt-autoscaler/actuator/boot").stat()
    assert own.st_uid == int(accounts["libvirt-autoscaler-actuator"][2])


def test_only_what_changes_domains_runs_as_the_actuators_account(destdir: Path) -> None:
    users: dict[str, list[str]] = {}
    for unit in sorted((destdir / UNITS.relative_to("/")).rglob("*")):
        for line in unit.read_text().splitlines() if unit.is_file() else ():
            if line.startswith("User="):
                users.setdefault(line.removeprefix("User="), []).append(f"{unit.parent.name}/{unit.name}")
    assert users == {
        "libvirt-autoscaler": [
            "system/libvirt-autoscaler-forget-capacity.service",
            "system/libvirt-autoscaler-haproxy.service",
            "system/libvirt-autoscaler@.service",
        ],
        "libvirt-autoscaler-actuator": [
            "system/libvirt-autoscaler-remove-domains.service",
            "libvirt-autoscaler@actuator.service.d/rights.conf",
        ],
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="a mount namespace needs root")
def test_where_systemd_runs_it_is_told_at_both_ends_and_no_unit_is_left_running(tmp_path: Path) -> None:
    """In a mount namespace with ``/run`` and ``/etc`` of its own, and programs that only write down their calls."""
    log, programs = tmp_path / "log", tmp_path / "bin"
    programs.mkdir()
    (tmp_path / "etc").mkdir()
    for name in ("systemctl", "systemd-sysusers", "systemd-tmpfiles"):
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {log}\n{RUNNING if name == "systemctl" else ""}')
        (programs / name).chmod(0o755)
    lib, units = tmp_path / "usr/lib/libvirt-autoscaler", tmp_path / "usr/lib/systemd/system"
    older = f"{units}/libvirt-autoscaler-older.service {units}/libvirt-autoscaler@older.service.d/rights.conf"
    add = f"mkdir -p {units}/libvirt-autoscaler@older.service.d && touch {older} && "
    add += f'printf "%s\\n" {older} >> {lib}/installed-files'
    script = (
        f"mount -t tmpfs tmpfs /run && mount --bind {tmp_path}/etc /etc && mkdir -p /run/systemd/system && "
        f'"$0" packaging/install.py install && {add} && echo again >> {log} && '
        f'"$0" packaging/install.py install && ls -R {units} >&2 && '
        f'echo uninstall >> {log} && "$0" packaging/install.py uninstall'
    )
    environ = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "PREFIX": str(tmp_path / "usr"), "DESTDIR": ""}
    command = ["unshare", "--mount", "sh", "-c", script, sys.executable]
    done = subprocess.run(command, cwd=ROOT, env=environ, check=True, capture_output=True, text=True)
    assert "older" not in done.stderr
    assert done.stdout.count("systemctl restart 'libvirt-autoscaler@*' && systemctl reload") == 2
    list_units = "systemctl list-units --plain --no-legend --no-pager"
    told = [
        f"{list_units} --all libvirt-autoscaler*",
        "systemctl disable --now libvirt-autoscaler@former.service",
        "systemd-sysusers ",
        "systemd-tmpfiles --create libvirt-autoscaler.conf",
        "systemctl daemon-reload",
        f"{list_units} --state=active libvirt-autoscaler*",
    ]
    assert log.read_text().splitlines() == [
        *told,
        "again",
        told[0],
        "systemctl disable --now libvirt-autoscaler-older.service",
        *told[1:],
        "uninstall",
        "systemctl disable libvirt-autoscaler.target",
        "systemctl stop libvirt-autoscaler*",
        "systemctl daemon-reload",
    ]


def test_everybody_may_read_it_whatever_the_umask_and_the_modes_of_the_source(tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", 'umask 077; exec "$0" packaging/install.py install', sys.executable],
        cwd=ROOT,
        env=os.environ | {"DESTDIR": str(tmp_path / "root"), "PREFIX": "/usr"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [path for path in (tmp_path / "root").rglob("*") if not path.is_symlink()]
    assert len(found) > 1000
    assert [path for path in found if path.stat().st_mode & (0o555 if path.is_dir() else 0o444) < 0o444] == []
    assert [path.name for path in (tmp_path / "root" / "usr" / "lib").glob("libvirt-autoscaler*")] == [
        "libvirt-autoscaler"
    ]


def test_a_directory_of_ones_own_is_installed_into_without_root() -> None:
    for target in ("install", "uninstall"):
        told = subprocess.run(
            ["make", "-n", target, "DESTDIR=/tmp/x"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        assert "packaging/install.py" in told
        assert "with-root" not in told


def test_the_page_renders_without_a_warning_and_has_every_command(destdir: Path) -> None:
    page = destdir / "usr/local/share/man/man1/autoscaler.1"
    command = ["groff", "-man", "-Tutf8", "-ww", "-rLL=200n", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    for word in (
        "config show",
        "reload",
        "--sweep",
        "AUTOSCALER_GROUPS__WEB__MAX=6",
        "75",
        "doctor has found",
        "/etc/libvirt-autoscaler/",
    ):
        assert word in done.stdout


def test_bash_completes_commands_and_options_with_the_installed_script(destdir: Path, tmp_path: Path) -> None:
    lib = destdir / LIB.relative_to("/")
    command = tmp_path / "autoscaler"
    command.write_text(f'#!/bin/sh\nexec {lib}/bin/python3 -IB -m cli "$@"\n')
    command.chmod(0o755)
    script = destdir / "usr/local/share/bash-completion/completions/autoscaler"
    words = "COMP_WORDS=(autoscaler re); COMP_CWORD=1"
    line = f'source {script}; {words}; _autoscaler_completion autoscaler re; echo "${{COMPREPLY[@]}}"'
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": "/nonexistent"}
    done = subprocess.run(["bash", "-c", line], env=environ, cwd="/", capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) >= {"reload", "replace", "replay", "resume"}
    assert "status" not in done.stdout


def test_an_edited_configuration_outlives_a_new_installation_and_an_uninstallation(tmp_path: Path) -> None:
    config = tmp_path / "etc/libvirt-autoscaler/autoscaler.toml"
    config.parent.mkdir(parents=True)
    config.write_text("# mine\n")
    assert make("install", tmp_path, PREFIX="/opt/x").returncode == 0
    assert (tmp_path / "opt/x/bin/autoscaler").is_file()
    assert make("uninstall", tmp_path, PREFIX="/opt/x").returncode == 0
    assert config.read_text() == "# mine\n"
    left = [path for path in (tmp_path / "opt").rglob("*") if not path.is_dir()]
    assert left == []


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    again = make("uninstall", tmp_path)
    assert again.returncode != 0
    assert "nothing is installed here" in again.stderr
    assert "PREFIX and DESTDIR must be absolute" in make("install", tmp_path, PREFIX="opt").stderr


def here(destdir: Path, tmp_path: Path) -> Path:
    """Return copies of the units whose commands are found without DESTDIR being the root."""
    units = tmp_path / "units"
    shutil.copytree(destdir / UNITS.relative_to("/"), units)
    for unit in units.glob("*.service"):
        unit.write_text(unit.read_text().replace(str(LIB), str(destdir / LIB.relative_to("/"))))
    return units


def verified(units: Path, *names: str) -> "subprocess.CompletedProcess[str]":
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=one", *names]
    environ = os.environ | {"SYSTEMD_UNIT_PATH": f"{units}:"}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
