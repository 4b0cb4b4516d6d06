"""Instants that the command shows can be typed back as they were shown, whatever the zone of the machine."""

import time
from collections.abc import Iterator

import pytest

from cli.words import instant_s, local_time
from common.errors import ConfigError
from services.decider.core.words import clock

AT_S = 1_700_000_031.0


@pytest.fixture(params=["UTC", "Asia/Kathmandu", "America/New_York"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


def test_what_is_shown_can_be_typed(zone: str) -> None:
    assert instant_s(local_time(AT_S), now_s=0) == AT_S
    assert instant_s(clock(AT_S), now_s=AT_S) == AT_S
    assert clock(AT_S) == "22:13:51 UTC"


def test_a_time_without_a_zone_is_local(zone: str) -> None:
    shown = local_time(AT_S)[:19]
    assert instant_s(shown, now_s=0) == AT_S
    assert instant_s(shown[11:], now_s=AT_S) == AT_S


@pytest.mark.parametrize("text", ["", "UTC", "25:00 UTC", "soon", "12:00 CET"])
def test_what_is_no_instant_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="an instant is ISO 8601"):
        instant_s(text, now_s=AT_S)
