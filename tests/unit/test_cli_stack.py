"""The parts of ``up`` and ``load`` that are pure: what supervisord is told, what a level means."""

import configparser
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cli.supervisor_config import haproxy_command, keeps_haproxy, supervisor_config
from common.config import SERVICES, Group, System
from common.errors import ConfigError
from load import levels
from services.balancer.core.ending import DEFAULT_S, LONGEST_S

SYSTEM = System(run_dir="/run/x", state_dir="/var/lib/x")


def parsed() -> configparser.ConfigParser:
    text = supervisor_config(
        SYSTEM, SERVICES, Path("/etc/autoscaler.toml"), Path("/venv/bin/python"), Path("/opt/autoscaler")
    )
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(text)
    return parser


def test_every_service_and_haproxy_is_a_program() -> None:
    programs = {section.removeprefix("program:") for section in parsed().sections() if section.startswith("program:")}
    assert programs == {*SERVICES, "haproxy"}


def test_no_program_is_ever_given_up() -> None:
    parser = parsed()
    for section in parser.sections():
        if section.startswith("program:"):
            assert parser[section]["autorestart"] == "true"
            assert int(parser[section]["startretries"]) >= 10**9


def test_each_service_runs_alone_with_this_configuration() -> None:
    assert parsed()["program:monitor"]["command"] == (
        "/venv/bin/python -IB -m services.monitor --config /etc/autoscaler.toml"
    )


def test_a_percent_sign_in_a_path_is_no_expansion() -> None:
    text = supervisor_config(SYSTEM, SERVICES, Path("/etc/a%b.toml"), Path("/venv/bin/python"), Path("/opt/100%"))
    assert "/etc/a%%b.toml" in text
    assert "directory=/opt/100%%\n" in text


def test_haproxys_keeper_ends_with_its_supervisor_and_haproxy_does_not() -> None:
    command = haproxy_command(SYSTEM, Path("/opt"), Path("/python"))
    assert command[:4] == ["setpriv", "--pdeathsig", "KILL", "/opt/scripts/keep-haproxy.sh"]
    assert command[4:6] == ["--pid-file", "/run/x/haproxy.pid"]
    assert command[6:8] == ["--at-stop", "/python -IB -m services.balancer.ending /run/x"]
    assert command[8] == "haproxy"


def test_it_is_told_to_end_by_what_outlives_whoever_asked() -> None:
    command = haproxy_command(SYSTEM, Path("/opt"), Path("/python"), is_to_end=True)
    assert command[:4] == ["/opt/scripts/keep-haproxy.sh", "--pid-file", "/run/x/haproxy.pid", "--end"]


def test_haproxy_is_told_to_drain_and_waited_for_longer_than_any_drain_may_last() -> None:
    program = parsed()["program:haproxy"]
    assert program["stopsignal"] == "USR1"
    assert int(program["stopwaitsecs"]) > LONGEST_S
    for bad in (LONGEST_S + 1, -1):
        with pytest.raises(ValidationError, match="drain_timeout_s"):
            Group.model_validate({"prefix": "web-", "drain_timeout_s": bad})
    assert Group.model_validate({"prefix": "web-"}).drain_timeout_s == DEFAULT_S


def test_a_period_wins_over_the_level() -> None:
    assert levels.choose("high", 0.3, None).period_s == 0.3
    assert levels.choose("high", None, None).period_s < levels.choose("low", None, None).period_s


def test_an_unknown_level_is_refused_with_what_is_allowed() -> None:
    with pytest.raises(ConfigError, match="low, mid, high"):
        levels.choose("extreme", None, None)


def test_a_level_is_read_as_it_was_written(tmp_path: Path) -> None:
    level = levels.choose("mid", None, 7)
    levels.write(tmp_path / "load.json", level)
    assert levels.read(tmp_path / "load.json") == level


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "x"}', '{"name": "x", "period_s": "y", "n": 1}'])
def test_a_spoilt_level_file_is_no_level(tmp_path: Path, content: str) -> None:
    (tmp_path / "load.json").write_text(content, encoding="utf-8")
    assert levels.read(tmp_path / "load.json") is None


@pytest.mark.parametrize(
    ("after", "is_kept"),
    [
        ({}, True),
        ({"services": (*SERVICES, "exporter")}, True),
        ({"services": SERVICES[1:]}, True),
        ({"config_path": Path("/b.toml")}, True),
        ({"variables": {"AUTOSCALER_X": "1"}}, False),
        ({"root": Path("/other")}, False),
    ],
)
def test_haproxy_runs_on_where_only_services_are_others(after: dict[str, Any], is_kept: bool) -> None:
    values = {"services": SERVICES, "config_path": Path("/a.toml"), "python": Path("/python"), "root": Path("/opt")}
    before = supervisor_config(SYSTEM, **values)
    assert keeps_haproxy(before, supervisor_config(SYSTEM, **{**values, **after})) is is_kept
    assert not keeps_haproxy("", before)
    assert not keeps_haproxy(before.replace("haproxy-master.sock", "other.sock"), before)


def test_other_variables_make_another_text_and_no_value_stands_in_it() -> None:
    def text(**variables: str) -> str:
        return supervisor_config(SYSTEM, SERVICES, Path("/a.toml"), Path("/python"), Path("/opt"), variables)

    hosts = {"AUTOSCALER_GROUPS__WEB__HOSTS": '["local"]\n[program:x]'}
    assert len({text(), text(**hosts), text(AUTOSCALER_GROUPS__WEB__HOSTS='["far"]')}) == 3
    assert "program:x" not in text(**hosts)
    assert text(**hosts) == text(**hosts)
