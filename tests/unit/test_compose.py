"""The pure parts of ``RUNTIME=compose``: what it refuses, what compose is told, which containers there are."""

import os
import re
import stat
from pathlib import Path

import pytest

from cli import compose, compose_limits, shared_dirs, stack
from cli.compose import variables
from common.clock import SystemClock
from common.config import Config, System
from common.errors import AutoscalerError, ConfigError
from common.run_dir import is_shared
from common.services import ALL_SERVICES

ROOT = Path(__file__).resolve().parents[2]
BESIDE = {"haproxy", "libvirt-reader", "window"}


def config(**changes: object) -> Config:
    group = {"prefix": "web-", "endpoint": "127.0.0.1:8000", **changes.pop("group", {})}  # type: ignore[dict-item]
    return Config.model_validate({"groups": {"web": group}, **changes})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "autoscaler.toml"
    path.touch(0o644)
    return path


def refusal(checked: Config, file: Path, environ: dict[str, str] | None = None, mode: int = 0o644) -> str:
    file.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        compose_limits.check_configuration(checked, file, file.parent, environ or {})
    return str(caught.value)


def test_every_service_has_a_container() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8").partition("\nservices:\n")[2]
    services = re.findall(r"^  ([a-z-]+):", text.partition("\nvolumes:\n")[0], re.MULTILINE)
    assert set(services) == {*ALL_SERVICES, *BESIDE}


def test_libvirts_read_write_socket_is_in_two_containers_and_those_alone_are_root() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8").partition("\nservices:\n")[2]
    users = [part.splitlines()[0] for part in re.split(r"\n(?=  [a-z])", "\n" + text) if "*libvirt" in part]
    assert [name.strip(" :") for name in users] == ["actuator", "libvirt-reader"]
    assert len(re.findall(r'^    user: "0:0"', text, re.MULTILINE)) == 2


def test_the_demo_configuration_is_fit_for_containers(file: Path) -> None:
    compose_limits.check_configuration(config(), file, file.parent, {"AUTOSCALER_CONFIG": "x"})


def test_a_file_that_the_containers_cannot_read_is_refused(file: Path) -> None:
    assert "chmod o+r" in refusal(config(), file, mode=0o600)


def test_a_key_set_by_the_environment_is_refused(file: Path) -> None:
    assert "AUTOSCALER_GROUPS__WEB__MAX" in refusal(config(), file, {"AUTOSCALER_GROUPS__WEB__MAX": "6"})


def test_a_host_over_ssh_is_refused(file: Path) -> None:
    remote = config(hosts={"local": {"uri": "qemu+ssh://other/system"}})
    assert "hosts.local.uri = 'qemu+ssh://other/system'" in refusal(remote, file)


def test_a_port_that_only_root_may_use_is_refused_with_the_way_out(file: Path) -> None:
    low = config(group={"endpoint": "*:80"})
    first = int(compose_limits.FIRST_PORT.read_text(encoding="ascii"))
    if first <= 80:
        pytest.skip(f"on this machine everybody may use ports from {first} on")
    assert "sysctl net.ipv4.ip_unprivileged_port_start=80" in refusal(low, file)


def test_an_image_outside_of_the_state_directory_is_refused_unless_the_operator_mounts_it(file: Path) -> None:
    elsewhere = config(group={"image": {"directory": "/srv/image"}})
    assert "groups.web.image.directory = '/srv/image'" in refusal(elsewhere, file)
    (file.parent / compose_limits.OVERRIDE).touch()
    compose_limits.check_configuration(elsewhere, file, file.parent, {})


def test_an_image_in_the_state_directory_is_seen_by_the_containers(file: Path) -> None:
    inside = config(group={"image": {"directory": "/var/lib/libvirt-autoscaler/mine"}})
    compose_limits.check_configuration(inside, file, file.parent, {})


def test_a_program_of_the_image_may_be_told_and_a_file_that_only_the_host_has_may_not(file: Path) -> None:
    def telling(*command: str) -> Config:
        return config(notifications=[{"command": list(command)}])

    compose_limits.check_configuration(telling("/bin/sh", "-c", "cat >/dev/null"), file, file.parent, {})
    assert "notifications[0].command = '/opt/tell'" in refusal(telling("/opt/tell"), file)
    assert f"notifications[0].command = '{file}'" in refusal(telling("/bin/sh", str(file)), file)


def test_images_are_looked_at_before_any_container_starts(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_config: Config, path: Path) -> None:
        raise AutoscalerError(f"looked at {path}")

    for name in ("require_root", "prepare_directories", "build_image"):
        monkeypatch.setattr(stack, name, lambda *_: "")
    monkeypatch.setattr(stack, "check_images", refuse)
    monkeypatch.setattr(compose.stack, "prepare_libvirt", lambda *_: "")
    monkeypatch.setattr(compose.Compose, "found", lambda *_: compose.Compose([], {}))
    file.write_text(f'[system]\nrun_dir = "{file.parent}/run"\n[groups.web]\nprefix = "web-"\n', encoding="utf-8")
    with pytest.raises(AutoscalerError, match=f"looked at {file}"):
        compose.up(file, SystemClock())


def test_compose_is_told_the_directories_and_the_digest(tmp_path: Path) -> None:
    told = variables(System(run_dir="/run/x", state_dir="/var/x"), tmp_path / "a.toml", "d1")
    assert told == {
        "AUTOSCALER_CONFIG": str(tmp_path / "a.toml"),
        "LIBVIRT_AUTOSCALER_RUN_DIR": "/run/x",
        "LIBVIRT_AUTOSCALER_STATE_DIR": "/var/x",
        "LIBVIRT_AUTOSCALER_CONFIG_DIGEST": "d1",
    }


@pytest.mark.parametrize(
    ("mode", "uid", "shared"),
    [(0o3770, 0, True), (0o1770, 0, True), (0o700, 0, False), (0o1777, 0, False), (0o3770, 1000, False)],
)
def test_a_directory_is_shared_if_it_is_roots_sticky_and_closed_to_others(mode: int, uid: int, shared: bool) -> None:
    found = os.stat_result((stat.S_IFDIR | mode, 0, 0, 1, uid, 10001, 0, 0, 0, 0))
    assert is_shared(found) is shared


@pytest.mark.parametrize(
    ("there", "is_there", "said"),
    [
        ("copy", True, "make down RUNTIME=compose in {tmp}/copy"),
        ("gone", False, "docker compose -p gone down"),
        ("elsewhere/tree", True, "make down RUNTIME=compose in {tmp}/elsewhere/tree"),
        ("elsewhere/tree", False, None),  # it was moved, and compose knows it by its name
        ("tree", True, None),
    ],
)
def test_containers_of_another_tree_are_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str, is_there: bool, said: str | None
) -> None:
    monkeypatch.setattr(shared_dirs, "are_shared", lambda _system: True)
    monkeypatch.setattr(compose, "is_locked", lambda path: path.name == "monitor.lock")
    system = System(run_dir=f"{tmp_path}/run", state_dir=f"{tmp_path}/state")
    system.run_path.mkdir()
    here = tmp_path / "tree"
    here.mkdir()
    compose.refuse_other_tree(system, here)  # an older release has not told
    (system.run_path / compose.TREE).write_text(str(tmp_path / there))
    if is_there:
        (tmp_path / there).mkdir(parents=True, exist_ok=True)
    if said is None:
        compose.refuse_other_tree(system, here)
        return
    with pytest.raises(AutoscalerError) as raised:
        compose.refuse_other_tree(system, here)
    assert str(raised.value).endswith(f"First stop them: {said.format(tmp=tmp_path)}")
    for no_longer in ((shared_dirs, "are_shared"), (compose, "is_locked")):
        with monkeypatch.context() as changed:
            changed.setattr(*no_longer, lambda _one: False)
            compose.refuse_other_tree(system, here)
