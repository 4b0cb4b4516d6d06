"""The keys of a group's endpoint and of its readiness: defaults, and what is refused with which words."""

from pathlib import Path

import pytest

from cli.configuration import check
from common import config_file
from common.config import Config, Group
from common.errors import ConfigError

HEAD = '[groups.web]\nprefix = "web-"\n'


def parse(keys: str) -> Config:
    return config_file.parse((HEAD + keys).encode(), "test.toml")


def group(keys: str = "") -> Group:
    return parse(keys).groups["web"]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ('retry = "always"', "retry"),
        ('protocol = "tcp"\nretry = "empty-response"', "retry: only with protocol 'http'"),
        ('protocol = "tcp"\nresponse_timeout_s = 3.0\nstream_idle_timeout_s = 3.0', "response_timeout_s, stream_idle"),
        ("max_session_s = 60.0", "max_session_s: only with protocol 'tcp'"),
        ('protocol = "tcp"\nmax_session_s = 0.5', "max_session_s must be 0"),
        ("response_timeout_s = 0.5", "response_timeout_s"),
        ("slow_start_s = -1.0", "slow_start_s"),
        ("max_in_flight = 0", "max_in_flight"),
        ("readiness = { expect = [] }", "expect"),
        ("readiness = { expect = [199] }", "statuses from 200 to 599, or classes such as '2xx'; got 199"),
        ('readiness = { expect = ["1xx"] }', "got '1xx'"),
        ('readiness = { expect = ["200"] }', "got '200'"),
        ("readiness = { expect = [true] }", "expect"),
        ('readiness = { host = "a b" }', "must be a name or an address"),
        ('readiness = { host = "a\\r\\nX: y" }', "must be a name or an address"),
        ('readiness = { host = "a:99999" }', "must be a name or an address"),
        ('readiness = { headers = { "X A" = "1" } }', "'X A' is no name of a header"),
        ('readiness = { headers = { "X-A:" = "1" } }', "is no name of a header"),
        ('readiness = { headers = { X-A = "1\\r\\nX-B: 2" } }', "X-A must be 1 to 1000 printable ASCII characters"),
        ('readiness = { headers = { X-A = "" } }', "X-A must be 1 to 1000"),
        ('readiness = { headers = { X-A = " 1" } }', "no space at either end"),
        ('readiness = { headers = { X-A = "ä" } }', "printable ASCII"),
        ('readiness = { headers = { Host = "a" } }', "Host has a key of its own"),
        ('readiness = { headers = { Content-Length = "1" } }', "cannot be set"),
        ('readiness = { headers = { X-A = "1", x-a = "2" } }', "given once"),
        ('readiness = { protocol = "tcp", expect = [204] }', "expect: only with protocol 'http'"),
        (
            'readiness = { protocol = "agent", host = "a", headers = { X-A = "1" } }',
            "host, headers: only with",
        ),
    ],
)
def test_what_cannot_work_is_refused_by_its_key(keys: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(keys)
    assert words in str(caught.value)


@pytest.mark.parametrize("host", ["app.example.org", "app:8080", "10.0.0.1", "[fd00::1]:80", "a_b"])
def test_a_host_is_a_name_or_an_address_with_or_without_a_port(host: str) -> None:
    assert group(f'readiness = {{ host = "{host}" }}').readiness.host == host


@pytest.mark.parametrize(
    ("keys", "slots"),
    [
        ("", 16),
        ('kind = "existing"', 64),
        ('image = { disk = "/srv/a.qcow2" }', 64),
        ('kind = "existing"\nmax_in_flight = 500', 500),
    ],
)
def test_slots_of_a_domain_go_by_what_is_booted_unless_the_file_says(keys: str, slots: int) -> None:
    assert group(keys).max_in_flight == slots


def test_an_answer_must_begin_within_the_timeout_of_the_file_of_yesterday() -> None:
    config = parse("[haproxy]\nrequest_timeout_s = 12.0\n")
    assert config.groups["web"].answers_within_s(config.haproxy) == 12.0
    own = parse("response_timeout_s = 3.0\n[haproxy]\nrequest_timeout_s = 12.0\n")
    assert own.groups["web"].answers_within_s(own.haproxy) == 3.0
    assert own.groups["web"].event_stream_idle_s(own.haproxy) == 300.0


def test_config_check_says_where_a_file_of_yesterday_works_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "autoscaler.toml"
    path.write_text(HEAD)
    notes = " ".join(check(path, {}).notes)
    assert "max_in_flight = 16 (was 64)" in notes
    assert "groups.web: a request whose answer is late is no longer sent to another domain" in notes
    path.write_text(HEAD + 'max_in_flight = 20\nretry = "response-timeout"\n')
    assert check(path, {}).notes == ()
