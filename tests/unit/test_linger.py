"""A service that fails at once stays for a while; supervisord starts what has ended without a pause of its own."""

import configparser
from pathlib import Path

import pytest

from cli.supervisor_config import supervisor_config
from common.config import SERVICES, System
from common.process import LINGER_S, linger_s

SUPERVISED = {"SUPERVISOR_ENABLED": "1"}


def test_what_is_killed_young_waits_for_no_back_off_and_what_fails_young_stays() -> None:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(supervisor_config(System(), SERVICES, Path("/a.toml"), Path("/python"), Path("/opt")))
    assert {parser[f"program:{name}"]["startsecs"] for name in SERVICES} == {"0"}
    assert linger_s(1, 0.0, SUPERVISED) == LINGER_S


@pytest.mark.parametrize(
    ("code", "lived_s", "environ"),
    [(0, 0.1, SUPERVISED), (1, LINGER_S, SUPERVISED), (75, 0.1, {}), (2, 0.1, {"NOTIFY_SOCKET": "/x"})],
)
def test_who_ends_well_or_late_or_by_itself_goes_at_once(code: int, lived_s: float, environ: dict[str, str]) -> None:
    assert linger_s(code, lived_s, environ) == 0.0
