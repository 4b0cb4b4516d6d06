"""``make clean`` leaves nothing of ours, also after a kill -9; and ``up`` and ``down`` tell the system's refusals."""

import errno
import resource
import socket
from pathlib import Path

import pytest
from supervisor.options import ServerOptions

from cli import stack
from cli.console import Steps
from cli.refusals import told, write_text
from cli.supervisor_config import supervisor_config
from common.clock import SystemClock
from common.config import SERVICES, Config, Group, Host, System
from common.errors import AutoscalerError
from services.balancer.core.haproxy_config import haproxy_config

OURS = ["decider.json", "decider.new", "actuator.new", "notifier.new", "haproxy.state", "haproxy.state.new", "web.run"]
OURS += [
    "monitor.run.new",
    "graph.png",
    "graph.png.new",
    ".acceleration.json.4711",
    "acceleration.lock",
    "acceleration.local.lock",
    "learned/web.0.base.new",
    "log/x.log",
]


def system(home: Path) -> System:
    return System(run_dir=f"{home}/run", state_dir=f"{home}/state")


def test_clean_leaves_no_file_of_ours_and_no_directory(tmp_path: Path) -> None:
    stack.prepare_directories(system(tmp_path))
    for name in OURS:
        path = tmp_path / "state" / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    stack.remove_files(system(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_clean_leaves_what_is_not_ours(tmp_path: Path) -> None:
    stack.prepare_directories(system(tmp_path))
    (tmp_path / "state" / "notes.txt").touch()
    stack.remove_files(system(tmp_path))
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("below", ["run", "state"])
def test_a_directory_that_cannot_be_made_is_one_sentence(tmp_path: Path, below: str) -> None:
    (tmp_path / below).touch()
    with pytest.raises(AutoscalerError, match=rf"{tmp_path}/{below} cannot be used: Not a directory"), told():
        stack.prepare_directories(system(tmp_path))


def test_a_program_that_is_missing_is_named() -> None:
    with pytest.raises(AutoscalerError, match="haproxy cannot be used: No such file"), told():
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "haproxy")


def test_a_full_disk_is_told_with_the_file(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(AutoscalerError, match=f"{tmp_path}/file cannot be written: File too large"):
            write_text(tmp_path / "file", "x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_supervisord_reads_what_it_is_told_also_where_the_program_lies_below_a_percent_sign(tmp_path: Path) -> None:
    stack.prepare_directories(system(tmp_path))
    root = tmp_path / "50%up"
    root.mkdir()
    path = tmp_path / "supervisord.conf"
    path.write_text(supervisor_config(system(tmp_path), SERVICES, root / "a.toml", root / "python", root))
    options = ServerOptions()
    options.realize(["-c", str(path)], doc="")
    assert options.directory == str(root)
    told = {group.name: group.process_configs[0].command for group in options.process_group_configs}
    assert told["monitor"] == f"{root}/python -IB -m services.monitor --config {root}/a.toml"
    assert told.keys() == {"haproxy", *SERVICES}


# --- what up checks --------------------------------------------------------------------------------------------------


class Builder:
    """Stands for the build of the guest image."""

    def __init__(self, *, works: bool) -> None:
        self.works, self.builds = works, 0

    def __call__(self, config: Config, steps: Steps) -> str:
        self.builds += 1
        if not self.works:
            raise AutoscalerError("no mmdebstrap")
        return "/images"


@pytest.mark.parametrize(
    ("image", "accel", "works", "said"),
    [
        ({}, "tcg", True, "/images"),
        ({"directory": "/srv/own"}, "auto", True, "/images, to prove KVM"),
        ({"disk": "/srv/own.qcow2"}, "auto", True, "/images, to prove KVM"),
        ({"directory": "/srv/own"}, "auto", False, "not built, so KVM cannot be proven"),
        ({"directory": "/srv/own"}, "kvm", True, "no group boots the demo guest"),
    ],
)
def test_up_has_a_guest_to_prove_kvm_with(
    monkeypatch: pytest.MonkeyPatch, image: dict[str, str], accel: str, works: bool, said: str
) -> None:
    build = Builder(works=works)
    monkeypatch.setattr(stack, "build_image", build)
    group = Group.model_validate({"prefix": "web-", "image": image})
    config = Config(groups={"web": group}, hosts={"local": Host.model_validate({"accel": accel})})
    assert stack.ensure_image(config, Steps(SystemClock(), 1)).startswith(said)
    assert build.builds == (0 if said.startswith("no group") else 1)


def test_a_running_installation_checks_the_endpoints_that_its_haproxy_does_not_hold(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tables = {"web": {"prefix": "web-"}, "api": {"prefix": "api-", "endpoint": "[::1]:8001"}}
    config = Config.model_validate({"groups": tables, "metrics": {"haproxy_listen": "127.0.0.1:8405"}})
    stack.prepare_directories(system(tmp_path))
    (tmp_path / "run" / "haproxy.cfg").write_text(haproxy_config(config, 20000, None))
    assert stack.held_addresses(system(tmp_path)) == []
    monkeypatch.setattr(stack, "is_supervised", lambda _system: True)
    assert stack.held_addresses(system(tmp_path)) == ["127.0.0.1:8000", "[::1]:8001", "127.0.0.1:8405"]
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = f"127.0.0.1:{holder.getsockname()[1]}"
        changed = Config.model_validate(
            {"groups": {"web": {"prefix": "web-", "endpoint": taken}}, "system": system(tmp_path).model_dump()}
        )
        with pytest.raises(AutoscalerError, match=f"groups.web.endpoint: {taken} cannot be used: Address already"):
            stack.prepare_haproxy(changed, tmp_path / "absent.toml")
