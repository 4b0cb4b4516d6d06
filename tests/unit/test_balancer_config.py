"""The text of haproxy.cfg."""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from common import config_file
from common.config import Config
from common.errors import AutoscalerError, ConfigError
from services.balancer.core.haproxy_config import allowed_maxconn, haproxy_config
from services.balancer.files import write_config

TWO_GROUPS = b"""
[system]
run_dir = "/run/it's"
[haproxy]
slots = 5
check_interval_s = 0.25
request_timeout_s = 12.5
[groups.web]
prefix = "web-"
endpoint = "*:8000"
readiness = { path = "/ready?deep=1", timeout_s = 2.0 }
[groups.db]
prefix = "db-"
protocol = "tcp"
endpoint = "[::1]:5432"
"""


def config(text: bytes = TWO_GROUPS) -> Config:
    return config_file.parse(text, "test.toml")


def section(text: str, title: str) -> list[str]:
    found = re.search(rf"^{title}\n((?: {{4}}.*\n)*)", text, re.MULTILINE)
    assert found, title
    return [line.strip() for line in found[1].splitlines()]


@pytest.mark.parametrize(
    ("drain_s", "seconds"), [("30.0", 600), ("900.0", 913), ("3600.5", 3613)], ids=["short", "long", "odd"]
)
def test_an_old_worker_is_not_ended_before_a_request_and_a_drain_that_began_with_it(drain_s: str, seconds: int) -> None:
    changed = TWO_GROUPS.replace(b'prefix = "db-"', b'prefix = "db-"\ndrain_timeout_s = ' + drain_s.encode())
    assert f"    hard-stop-after {seconds}s\n" in haproxy_config(config(changed), 20000, None)


def test_each_group_is_a_frontend_and_a_backend() -> None:
    text = haproxy_config(config(), 20000, None)
    assert section(text, "frontend web")[:2] == ["bind *:8000", "mode http"]
    assert section(text, "frontend db") == ["bind [::1]:5432", "mode tcp", "default_backend db"]
    assert section(text, "backend db") == [
        "mode tcp",
        "timeout tunnel 3600000ms",
        "timeout check 1000ms",
        "server-template vm 1-5 slot.invalid:1 check disabled maxconn 16 init-addr last,127.0.0.1",
    ]


def test_http_backend_repeats_gets_and_nothing_else() -> None:
    lines = section(haproxy_config(config(), 20000, None), "backend web")
    assert "retry-on conn-failure empty-response" in lines and "http-reuse always" in lines
    assert "http-request disable-l7-retry if !METH_GET" in lines
    asked = "http-check send meth GET uri /ready?deep=1 ver HTTP/1.1 hdr Host 'web' hdr User-Agent 'autoscaler-check'"
    assert asked in lines
    assert "http-check expect status 200" in lines
    assert "timeout check 2000ms" in lines


def test_timeouts_and_checks_follow_the_configuration() -> None:
    lines = section(haproxy_config(config(), 20000, None), "defaults")
    assert "timeout server 12500ms" in lines
    assert "timeout connect 500ms" in lines
    assert [line for line in lines if "inter" in line] == [
        "default-server inter 250ms fastinter 100ms fall 3 rise 2 on-marked-down shutdown-sessions"
    ]


def test_paths_are_single_words() -> None:
    lines = section(haproxy_config(config(), 20000, None), "global")
    assert lines[0] == "stats socket '/run/it'\\''s/haproxy.sock' mode 0600 level admin expose-fd listeners"


def test_account_serves_when_there_is_one() -> None:
    assert "user haproxy" in section(haproxy_config(config(), 20000, "haproxy"), "global")
    assert "user haproxy" not in section(haproxy_config(config(), 20000, None), "global")


@pytest.mark.parametrize(("wanted", "limit", "expected"), [(4000, 20000, 4000), (4000, 1024, 362), (10, 200, 10)])
def test_connections_fit_the_file_descriptors(wanted: int, limit: int, expected: int) -> None:
    assert allowed_maxconn(wanted, limit) == expected


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Give a directory whose path leaves room for a socket's name, wherever the tests run."""
    with tempfile.TemporaryDirectory(prefix="as-") as path:
        yield Path(path)


def test_written_configuration_is_private_and_its_state_file_exists(short_path: Path) -> None:
    text = f'[system]\nrun_dir = "{short_path}/r"\nstate_dir = "{short_path}/s"\n[groups.web]\nprefix = "web-"\n'
    path = write_config(config(text.encode()))
    assert path == short_path / "r" / "haproxy.cfg"
    assert path.stat().st_mode & 0o777 == 0o600
    assert (short_path / "s" / "haproxy.state").read_text() == "1\n"


def test_what_is_written_already_is_left_as_it_is(short_path: Path) -> None:
    text = f'[system]\nrun_dir = "{short_path}/r"\nstate_dir = "{short_path}/s"\n[groups.web]\nprefix = "web-"\n'
    path = write_config(config(text.encode()))
    before = path.stat().st_ino
    assert write_config(config(text.encode())).stat().st_ino == before
    assert write_config(config(f"{text}max_in_flight = 5\n".encode())).stat().st_ino != before
    path.write_bytes(b"\xff")
    assert b"frontend" in write_config(config(text.encode())).read_bytes()


def test_run_dir_too_long_for_haproxy_is_refused_by_name() -> None:
    run_dir = "/" + "r" * 80
    text = f'[system]\nrun_dir = "{run_dir}"\n[groups.web]\nprefix = "web-"\n'
    with pytest.raises(ConfigError, match="run_dir is too long for HAProxy"):
        write_config(config(text.encode()))


def test_directory_that_cannot_be_written_is_named(short_path: Path) -> None:
    (short_path / "file").touch()
    text = f'[system]\nrun_dir = "{short_path}/r"\nstate_dir = "{short_path}/file/s"\n[groups.web]\nprefix = "web-"\n'
    with pytest.raises(AutoscalerError, match="cannot be written"):
        write_config(config(text.encode()))


def test_haproxy_shows_its_own_metrics_only_where_it_is_told_to() -> None:
    assert "prometheus-exporter" not in haproxy_config(config(), 20000, None)
    text = haproxy_config(config(TWO_GROUPS + b'[metrics]\nhaproxy_listen = "127.0.0.1:8405"\n'), 20000, None)
    lines = section(text, "frontend _metrics")
    assert lines[:2] == ["bind 127.0.0.1:8405", "mode http"]
    assert "http-request use-service prometheus-exporter if { path /metrics }" in lines
    with pytest.raises(ConfigError, match="must match"):  # no group can have this frontend's name
        config(b'[groups._metrics]\nprefix = "web-"\n')


def test_a_group_that_is_probed_by_its_agent_is_checked_by_an_open_port() -> None:
    text = haproxy_config(config(b'[groups.web]\nprefix = "web-"\nreadiness = { protocol = "agent" }\n'), 20000, None)
    lines = section(text, "backend web")
    assert not [line for line in lines if "http-check" in line or "httpchk" in line]
    assert any(line.startswith("server-template") and " check " in line for line in lines)


def backend(keys: str) -> list[str]:
    return section(
        haproxy_config(config(f'[groups.web]\nprefix = "web-"\n{keys}'.encode()), 20000, None), "backend web"
    )


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ('retry = "conn-failure"', "retry-on conn-failure"),
        ('retry = "response-timeout"', "retry-on conn-failure empty-response response-timeout"),
        ("response_timeout_s = 2.5", "timeout server 2500ms"),
        ("", "timeout server 30000ms"),
        ("", "http-request set-timeout server 300000ms if { req.hdr(accept) -m sub -i text/event-stream }"),
        (
            "response_timeout_s = 900.0",
            "http-request set-timeout server 900000ms if { req.hdr(accept) -m sub -i text/event-stream }",
        ),
        (
            "stream_idle_timeout_s = 5.0",
            "http-request set-timeout server 5000ms if { req.hdr(accept) -m sub -i text/event-stream }",
        ),
        ("tunnel_timeout_s = 60.0", "timeout tunnel 60000ms"),
        ('readiness = { expect = [204, "3xx"] }', "http-check expect status 204,300-399"),
    ],
)
def test_a_key_of_the_endpoint_is_a_line_of_its_backend(keys: str, line: str) -> None:
    assert line in backend(keys)


def test_slow_start_and_slots_are_the_servers() -> None:
    lines = backend("slow_start_s = 20.0\nmax_in_flight = 7")
    assert lines[-1].endswith("check disabled maxconn 7 slowstart 20000ms init-addr last,127.0.0.1")
    assert "slowstart" not in backend("")[-1]


def test_a_header_is_one_word_in_which_nothing_is_a_variable() -> None:
    lines = backend('readiness = { host = "a:1", headers = { X-A = "50% \'q\' #$H %[src] \\\\" } }')
    assert [line.partition(" ver HTTP/1.1 ")[2] for line in lines if "http-check send" in line] == [
        "hdr Host 'a:1' hdr User-Agent 'autoscaler-check' hdr X-A '50%% '\\''q'\\'' #$H %%[src] \\'"
    ]
