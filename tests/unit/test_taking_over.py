"""Which command helps where services run with an older file."""

from pathlib import Path

import pytest

from cli import taking_over
from cli.doctor.facts import ServiceFacts
from cli.doctor.judge_machine import judge_services
from cli.taking_over import way
from common import in_force
from common.config import Config
from common.config_file import read
from common.messages import ServiceStatus

TEXT = '[system]\nrun_dir = "{0}/run"\nstate_dir = "{0}/state"\n[groups.web]\nprefix = "web-"\nmax = 3\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file that is in force."""
    path = tmp_path / "autoscaler.toml"
    path.write_text(TEXT.format(tmp_path))
    (tmp_path / "run").mkdir(mode=0o700)
    in_force.keep(tmp_path / "run", read(path, {}).source)
    return path


def changed(file: Path, before: str, after: str) -> Config:
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after))
    return read(file, {}).config


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("max = 3", "max = 5", "autoscaler reload"),
        ("max = 3", "port = 81", "make up"),
        ("[groups.web]", "[groups.shop]", "make up"),
    ],
)
def test_a_reload_is_advised_only_where_it_would_be_taken_over(
    file: Path, before: str, after: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(file, before, after)
    assert way(config) == expected
    if expected == "make up":
        monkeypatch.setattr(taking_over, "belong_to_units", lambda _path: True)
        assert way(config) == "systemctl restart libvirt-autoscaler.target"


def test_where_nobody_knows_what_is_in_force_it_is_a_restart(file: Path) -> None:
    in_force.place(file.parent / "run").unlink()
    assert way(read(file, {}).config) == "make up"


def test_the_doctor_advises_it() -> None:
    old = ServiceStatus(name="monitor", pid=1, started_at_s=0, release="0", config_digest="old")
    facts = ServiceFacts({"monitor": old}, ("monitor",), "new", True, 0, way="autoscaler reload")
    assert judge_services(facts)[-1].mend == "autoscaler reload"
