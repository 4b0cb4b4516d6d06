"""The calendar: when a cron expression fires, also when the clocks change, and what is asked for around that time."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cli.clock_changes import uneven_windows
from cli.configuration import check
from common import cron
from common.config import Config, Schedule
from common.config_file import parse
from common.errors import ConfigError
from services.decider.core import policies
from services.decider.core.events import Reconfigured
from services.decider.core.policies import schedule
from services.decider.core.state import Settings
from tests.sim.decider_model import World
from tests.sim.decider_model import settings as group_settings
from tests.unit.policy_ticks import ballots, metrics

BERLIN = "Europe/Berlin"  # 2026: forward on 29 March at 02:00, back on 25 October at 03:00
HOUR_S = 3600.0


def at(text: str, zone: str = BERLIN, fold: int = 0) -> float:
    """Return the epoch seconds of a wall-clock time."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def fires(expression: str, begin: str, hours: float, zone: str = BERLIN) -> list[str]:
    """Return the local times at which ``expression`` fires in the hours after ``begin``."""
    now_s = at(begin, zone)
    end_s, found = now_s + hours * HOUR_S, []
    while (next_s := cron.around(expression, zone, now_s)[1]) is not None and next_s <= end_s:
        found.append(f"{datetime.fromtimestamp(next_s, tz=ZoneInfo(zone)):%d %H:%M %Z}")
        now_s = next_s
    return found


def daily(**changes: Any) -> Schedule:
    values = {"cron": "0 8 * * *", "zone": BERLIN, "duration_s": 4 * HOUR_S, "capacity": 6}
    return Schedule.model_validate(values | changes)


def asked(policy: Schedule, epoch_s: float, chance: float = 0.0) -> int:
    """Return what the policy asks for at least."""
    return schedule.floor(policy, schedule.found(policy, epoch_s), epoch_s, chance)


# --- when the clocks change ------------------------------------------------------------------------------------------


def test_a_time_that_does_not_exist_fires_at_the_first_instant_after_the_gap() -> None:
    assert fires("30 2 * * *", "2026-03-28T00:00", 72) == ["28 02:30 CET", "29 03:00 CEST", "30 02:30 CEST"]


def test_a_time_that_exists_twice_fires_the_first_time_only() -> None:
    assert fires("30 2 * * *", "2026-10-24T00:00", 73) == ["24 02:30 CEST", "25 02:30 CEST", "26 02:30 CET"]


def test_an_expression_that_follows_the_clock_fires_in_both_passes_of_a_repeated_hour() -> None:
    found = ["25 01:30 CEST", "25 02:30 CEST", "25 02:30 CET", "25 03:30 CET"]
    assert fires("30 * * * *", "2026-10-25T01:00", 4) == found


def test_an_expression_that_follows_the_clock_leaves_out_the_skipped_hour() -> None:
    assert fires("30 * * * *", "2026-03-29T01:00", 3) == ["29 01:30 CET", "29 03:30 CEST", "29 04:30 CEST"]


@pytest.mark.parametrize("expression", ["30 2 * * *", "*/20 * * * *", "15 1,2,3 * * *"])
@pytest.mark.parametrize("day", ["2026-03-28T23:00", "2026-10-24T23:00"])
def test_before_and_after_agree_in_every_minute_around_a_change(expression: str, day: str) -> None:
    begin_s = at(day)
    for minute in range(9 * 60):
        now_s = begin_s + 60 * minute
        last_s, next_s = cron.around(expression, BERLIN, now_s)
        assert last_s is not None
        assert next_s is not None
        assert last_s <= now_s < next_s
        assert cron.around(expression, BERLIN, next_s)[0] == next_s
        assert cron.around(expression, BERLIN, next_s - 1)[0] == last_s


def test_a_window_lasts_its_duration_in_real_time_whatever_the_clock_does() -> None:
    policy = daily(cron="0 1 * * *", duration_s=3 * HOUR_S)
    for day in ("2026-03-29T01:00", "2026-10-25T01:00", "2026-06-01T01:00"):
        begin_s = at(day)
        assert [asked(policy, begin_s + s) for s in (-1, 0, 3 * HOUR_S - 1, 3 * HOUR_S)] == [0, 6, 6, 0]


def test_a_zone_half_an_hour_off_changes_by_half_an_hour() -> None:
    assert fires("15 2 * * *", "2026-10-03T12:00", 48, "Australia/Lord_Howe") == ["04 02:30 +11", "05 02:15 +11"]


# --- the floor -------------------------------------------------------------------------------------------------------


def test_the_whole_floor_stands_from_the_named_time_for_the_duration() -> None:
    begin_s = at("2026-06-01T08:00")
    found = [asked(daily(), begin_s + s) for s in (-HOUR_S, -1, 0, 1, 4 * HOUR_S - 1, 4 * HOUR_S, 9 * HOUR_S)]
    assert found == [0, 0, 6, 6, 6, 0, 0]


def test_ramps_lie_outside_of_the_window() -> None:
    policy, begin_s = daily(ramp_s=600.0), at("2026-06-01T08:00")
    end_s = begin_s + 4 * HOUR_S
    assert [asked(policy, begin_s + s) for s in (-601, -600, -599, -500, -300, -100, 0)] == [0, 0, 1, 1, 3, 5, 6]
    assert [asked(policy, end_s + s) for s in (-1, 0, 100, 300, 500, 599, 600)] == [6, 6, 5, 3, 1, 1, 0]


def test_jitter_moves_the_edges_outwards_by_the_group_s_share() -> None:
    policy, begin_s = daily(jitter_s=100.0), at("2026-06-01T08:00")
    end_s = begin_s + 4 * HOUR_S
    assert [asked(policy, begin_s + s, 0.5) for s in (-51, -50, 0)] == [0, 6, 6]
    assert [asked(policy, end_s + s, 0.5) for s in (0, 49, 50)] == [6, 6, 0]
    assert asked(policy, begin_s - 50, 0.4) == 0


def test_the_jitter_of_a_group_follows_from_its_name_alone() -> None:
    def chance(name: str) -> float:
        given_settings = group_settings()
        return Settings(name, given_settings.group, 1.0, 3.5, 2.0, 64).chance

    draws = [chance(f"group-{number}") for number in range(200)]
    assert draws == [chance(f"group-{number}") for number in range(200)]
    assert all(0 <= draw < 1 for draw in draws)
    assert 0.4 < sum(draws) / 200 < 0.6
    assert len(set(draws)) == 200


def test_windows_that_overlap_are_one() -> None:
    policy = daily(cron="*/10 * * * *", duration_s=15 * 60.0)
    begin_s = at("2026-06-01T08:00")
    assert {asked(policy, begin_s + s) for s in range(0, 7200, 7)} == {6}


def test_the_vote_names_what_comes_next_and_follows_the_clock() -> None:
    begin_s = at("2026-06-01T08:00")
    series = [metrics(epoch_offset_s=begin_s - 2.0 - 100.0)] * 4
    found = ballots(daily(), series)
    assert [vote.capacity for vote in found] == [0, 0, 6, 6]
    assert found[0].reason == "'0 8 * * *' Europe/Berlin: outside of its window; next 2026-06-01 08:00 CEST"
    assert found[2].reason == "'0 8 * * *' Europe/Berlin: at least 6 domains"


def test_the_edge_of_a_ramp_says_so() -> None:
    begin_s = at("2026-06-01T08:00")
    vote = ballots(daily(ramp_s=600.0), [metrics(epoch_offset_s=begin_s - 400.0)])[0]
    assert vote.reason.endswith("3 of 6 domains, at the edge of its window")


def test_a_clock_that_is_set_back_is_followed() -> None:
    begin_s = at("2026-06-01T08:00")
    series = [metrics(epoch_offset_s=offset_s) for offset_s in (begin_s, begin_s - 7200.0, begin_s)]
    assert [vote.capacity for vote in ballots(daily(), series)] == [6, 0, 6]


def test_the_cron_expression_is_looked_up_once_for_a_window_not_on_every_tick() -> None:
    kind, policy, now_s = policies.of(daily()), daily(), at("2026-06-01T12:00")
    _, state = kind.recommend(policy, kind.start(), metrics(), now_s)
    _, later = kind.recommend(policy, state, metrics(), now_s + 3600.0)
    assert later is state


# --- an end by the clock, and a cap -----------------------------------------------------------------------------------

ALL_DAY = {"cron": "0 0 * * *", "zone": BERLIN, "capacity": 5}


@pytest.mark.parametrize("day", ["2026-03-28", "2026-10-24"])
def test_all_day_long_by_the_clock_has_no_hole_when_the_clocks_change(day: str) -> None:
    policy, begin_s = Schedule.model_validate(ALL_DAY | {"until": "0 0 * * *"}), at(f"{day}T00:00")
    assert {asked(policy, begin_s + 60 * minute) for minute in range(3 * 24 * 60)} == {5}


def test_a_window_with_an_end_by_the_clock_is_as_long_as_the_day_makes_it() -> None:
    policy = Schedule.model_validate(ALL_DAY | {"cron": "0 22 * * *", "until": "0 6 * * *"})
    for day, hours in (("2026-03-28", 7), ("2026-10-24", 9), ("2026-06-01", 8)):
        begin_s = at(f"{day}T22:00")
        end_s = begin_s + hours * HOUR_S
        assert [asked(policy, s) for s in (begin_s - 1, begin_s, end_s - 1, end_s)] == [0, 5, 5, 0]


def test_an_end_on_another_day_is_found_and_one_that_never_comes_leaves_it_open() -> None:
    weekend = Schedule.model_validate(ALL_DAY | {"cron": "0 18 * * FRI", "until": "0 6 * * MON"})
    begin_s, end_s = at("2026-06-05T18:00"), at("2026-06-08T06:00")
    assert [asked(weekend, s) for s in (begin_s - 1, begin_s, end_s - 1, end_s)] == [0, 5, 5, 0]
    leap = Schedule.model_validate(ALL_DAY | {"cron": "0 0 * * *", "until": "0 0 29 2 *"})
    assert asked(leap, at("2026-06-05T18:00")) == 5


def test_ramps_lie_after_an_end_by_the_clock_too() -> None:
    policy = Schedule.model_validate(ALL_DAY | {"cron": "0 8 * * *", "until": "0 12 * * *", "ramp_s": 600.0})
    end_s = at("2026-06-01T12:00")
    assert [asked(policy, end_s + s) for s in (-1, 0, 130, 590, 600)] == [5, 5, 4, 1, 0]


def test_a_cap_is_told_in_its_window_only_and_asks_for_nothing() -> None:
    policy = Schedule.model_validate({"cron": "0 1 * * *", "zone": BERLIN, "until": "0 5 * * *", "maximum": 2})
    begin_s = at("2026-06-01T01:00")
    series = [metrics(epoch_offset_s=begin_s - 2.0 - 100.0)] * 4
    found = ballots(policy, series)
    assert [(vote.capacity, vote.most) for vote in found] == [(0, None), (0, None), (0, 2), (0, 2)]
    assert found[2].reason == "'0 1 * * *' Europe/Berlin: at most 2 domains"


def test_a_cap_brings_the_group_down_whatever_other_policies_want_and_lets_it_grow_again() -> None:
    found = World(lambda t: 4.2, settings=group_settings(max=8), ready=6).run(30)
    night = {"type": "schedule", "cron": "* * * * *", "duration_s": 60.0, "maximum": 2}
    found.pass_on(Reconfigured(group_settings(max=8, policies=[{"type": "threshold"}, night])))
    found.run(1)
    record = found.state.history[-1]
    assert (record.desired_after, record.limiter, record.limiter_text) == (2, "bounds", "6 is above max 2 (schedule)")
    assert {found.run(1).state.standing.desired for _ in range(60)} == {2}
    assert found.state.history[-1].limiter_text == "3 wanted, max is 2 (schedule)"
    assert found.state.standing.patience_s == 0.0
    assert found.ask("scale", desired=3).reply.reason == "desired must be in 1..2 (min..max); got 3"
    assert found.ask("bounds", max=9).reply.reason == "bounds are now 1..9, were 1..8"
    found.ask("bounds", reset=True)
    found.pass_on(Reconfigured(group_settings(max=8)))
    assert found.run(60).state.standing.desired == 6


def test_a_cap_never_goes_below_min_and_an_observed_one_changes_nothing() -> None:
    night = {"type": "schedule", "cron": "* * * * *", "duration_s": 60.0, "maximum": 2}
    for changes, desired in (({"min": 3}, 3), ({"policies": [{"type": "threshold"}, night | {"mode": "observe"}]}, 6)):
        table = {"max": 8, "policies": [{"type": "threshold"}, night]} | changes
        assert World(lambda t: 4.2, settings=group_settings(**table), ready=6).run(30).path()[-1] == desired
        assert set(World(lambda t: 4.2, settings=group_settings(**table), ready=6).run(30).path()) <= {6, desired}


# --- the configuration -----------------------------------------------------------------------------------------------

HEAD = '[groups.web]\nprefix = "web-"\n[[groups.web.policies]]\ntype = "schedule"\nduration_s = 60\ncapacity = 2\n'


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("0 0 30 2 *", "never fires: no month it names has a day 30"),
        ("0 0 31 2,4,6,9,11 *", "never fires: no month it names has a day 31"),
        ("* * */20 * 1L", "never fires: no day of the next fifty years"),
        ("61 * * * *", "minute cannot be '61'"),
        ("0 24 * * *", "hour cannot be '24'"),
        ("0 0 * 13 *", "month cannot be '13'"),
        ("0 0 * * 9", "day-of-week cannot be '9'"),
        ("0 0 0 * *", "day-of-month cannot be '0'"),
        ("*/0 * * * *", "minute cannot be '*/0'"),
        ("5-1 * * * *", "minute cannot be '5-1'"),
        ("0 0 * * * *", "must have the five fields"),
        ("@daily", "must have the five fields"),
        ("", "must have the five fields"),
        ("0 0 ² * *", "day-of-month cannot be '²'"),
        ("0 0 * * " + "1," * 200 + "1", "must have the five fields"),
    ],
)
def test_an_expression_that_is_wrong_or_never_fires_is_refused(expression: str, error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f'{HEAD}cron = "{expression}"'.encode(), "autoscaler.toml")
    text = str(caught.value)
    assert "autoscaler.toml:7: groups.web.policies.0.cron: " in text
    assert error in text
    assert "minute hour day-of-month month day-of-week" in text or "fifty years" in text
    assert repr(expression) in text


@pytest.mark.parametrize(
    "zone", ["Europe/Berln", "Europe", "", "../etc/passwd", "/etc/localtime", "CEST!", "x\\u0000y"]
)
def test_an_unknown_zone_is_refused(zone: str) -> None:
    with pytest.raises(ConfigError, match=r"policies\.0\.zone: must be an IANA time zone such as 'Europe/Berlin'"):
        parse(f'{HEAD}cron = "0 8 * * *"\nzone = "{zone}"'.encode(), "autoscaler.toml")


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ("duration_s = 60\nuntil = '0 9 * * *'\ncapacity = 2", "needs exactly one of duration_s and until; got both"),
        ("capacity = 2", "needs exactly one of duration_s and until; got neither"),
        ("duration_s = 60", "needs capacity (at least so many), maximum (at most) or both; got neither"),
        ("duration_s = 60\ncapacity = 3\nmaximum = 2", "capacity must be <= maximum (2); got 3"),
        ("duration_s = 60\nmaximum = 0", "policies.0.maximum: input should be greater than or equal to 1; got 0"),
        ("until = '0 9 31 2 *'\ncapacity = 2", "policies.0.until: never fires"),
        ("until = '9 Uhr'\ncapacity = 2", "policies.0.until: must have the five fields"),
    ],
)
def test_a_calendar_without_one_end_or_without_anything_to_hold_is_refused(keys: str, error: str) -> None:
    head = '[groups.web]\nprefix = "web-"\n[[groups.web.policies]]\ntype = "schedule"\ncron = "0 8 * * *"\n'
    with pytest.raises(ConfigError) as caught:
        parse(f"{head}{keys}\n".encode(), "autoscaler.toml")
    assert error in str(caught.value)


def test_a_near_miss_of_a_zone_is_suggested() -> None:
    with pytest.raises(ValueError, match="did you mean 'Europe/Berlin'"):
        cron.check_zone("Europe/Berln")


@pytest.mark.parametrize("expression", ["0 8 * * MON-FRI", "*/5 0-6 1,15 * *", "0 0 L * *", "0 0 29 2 *", "0 0 * * 7"])
def test_what_cron_understands_is_accepted(expression: str) -> None:
    cron.check(expression)


def test_an_expression_that_fires_once_in_decades_is_found() -> None:
    last_s, next_s = cron.around("0 0 29 2 MON", "UTC", at("2026-06-01T00:00", "UTC"))
    assert next_s is not None
    assert last_s is not None
    cron.check("0 0 29 2 *")


# --- what config check says beforehand --------------------------------------------------------------------------------


def told(now: str = "2026-01-01T00:00", **changes: Any) -> list[str]:
    table = {"type": "schedule", "zone": BERLIN, "cron": "0 0 * * *", "duration_s": 86400.0, "capacity": 5} | changes
    table = {key: value for key, value in table.items() if value is not None}
    config = Config.model_validate({"groups": {"web": {"prefix": "web-", "policies": [{"type": "threshold"}, table]}}})
    return uneven_windows(config, at(now))


def test_a_day_of_a_fixed_length_is_named_with_its_hole_and_its_overlap() -> None:
    why = "the clocks change, and 86400 s of duration_s do not"
    advice = 'until = "0 0 * * *" instead of duration_s follows the clocks'
    assert told() == [
        "groups.web.policies.1: two windows at once from 2026-03-30 00:00 CEST to 2026-03-30 01:00 CEST, "
        f"which count as one: {why}; {advice}",
        f"groups.web.policies.1: no window from 2026-10-25 23:00 CET to 2026-10-26 00:00 CET: {why}; {advice}",
    ]


def test_only_the_changes_of_the_year_to_come_are_named() -> None:
    assert ["2026-10-25 23:00" in line for line in told("2026-04-01T00:00")] == [True, False]
    (line,) = told("2026-10-26T00:00")
    assert "two windows at once from 2027-03-29 00:00 CEST" in line


@pytest.mark.parametrize(
    "changes",
    [
        {"duration_s": None, "until": "0 0 * * *"},  # it follows the clocks
        {"zone": "UTC"},
        {"duration_s": 4 * HOUR_S},  # apart on every day
        {"cron": "*/10 * * * *", "duration_s": 3600.0},  # overlaps on every day
        {"cron": "0 0 29 2 *"},
    ],
)
def test_nothing_is_said_of_windows_that_no_change_touches(changes: dict[str, Any]) -> None:
    assert told(**changes) == []


def test_two_shifts_that_leave_an_hour_free_overlap_only_where_an_hour_is_skipped() -> None:
    (line,) = told(cron="0 1,13 * * *", duration_s=11.5 * HOUR_S)
    assert "two windows at once from 2026-03-29 13:00 CEST to 2026-03-29 13:30 CEST" in line and "until" not in line


def test_config_check_prints_it_as_a_note(tmp_path: Path) -> None:
    file = tmp_path / "autoscaler.toml"
    file.write_text(HEAD.replace("60", "86400.0") + f'cron = "0 0 * * *"\nzone = "{BERLIN}"\n')
    checked = check(file, {}, at("2026-09-01T00:00"))
    assert "note: groups.web.policies.0: no window from 2026-10-25 23:00 CET" in checked.text()


@pytest.mark.parametrize(
    ("zone", "count"), [("UTC", 0), (BERLIN, 2), ("Australia/Lord_Howe", 2), ("Africa/Casablanca", 2)]
)
def test_every_clock_change_is_found_to_the_second(zone: str, count: int) -> None:
    """In a year that is over: what governments decide for the next one comes with the time zone data of each system."""
    found = cron.changes(zone, at("2025-01-01T00:00", "UTC"), at("2026-01-01T00:00", "UTC"))
    assert len(found) == count
    for at_s in found:
        before, after = (datetime.fromtimestamp(s, tz=ZoneInfo(zone)).utcoffset() for s in (at_s - 1, at_s))
        assert before != after


# --- properties ------------------------------------------------------------------------------------------------------

moments = st.floats(at("2025-01-01T00:00"), at("2028-01-01T00:00"))
expressions = st.sampled_from(
    ["0 8 * * *", "30 2 * * SUN", "*/15 * * * *", "0 0 1 * *", "15 1-3 * 3,10 *", "0 0 29 2 *"]
)
zones = st.sampled_from(["UTC", BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia"])


@given(expression=expressions, zone=zones, epoch_s=moments)
@hypothesis_settings(deadline=None)
def test_the_last_and_the_next_time_enclose_now(expression: str, zone: str, epoch_s: float) -> None:
    last_s, next_s = cron.around(expression, zone, epoch_s)
    assert last_s is not None
    assert next_s is not None
    assert last_s <= epoch_s < next_s


@given(
    expression=expressions,
    zone=zones,
    epoch_s=moments,
    duration_s=st.floats(1.0, 86400.0),
    ramp_s=st.floats(0.0, 7200.0),
    jitter_s=st.floats(0.0, 7200.0),
    chance=st.floats(0.0, 1.0, exclude_max=True),
)
@hypothesis_settings(deadline=None)
def test_the_floor_is_within_bounds_and_whole_inside_of_every_window(
    expression: str, zone: str, epoch_s: float, duration_s: float, ramp_s: float, jitter_s: float, chance: float
) -> None:
    policy = Schedule(cron=expression, zone=zone, duration_s=duration_s, capacity=5, ramp_s=ramp_s, jitter_s=jitter_s)
    found = asked(policy, epoch_s, chance)
    last_s, _ = cron.around(expression, zone, epoch_s)
    assert last_s is not None
    assert 0 <= found <= 5
    assert found == 5 or epoch_s - last_s >= duration_s


def test_a_year_of_minutes_asks_for_the_window_s_share_of_it() -> None:
    policy, begin = (
        daily(cron="0 8 * * MON-FRI"),
        datetime.fromisoformat("2026-01-01T00:00").replace(tzinfo=ZoneInfo("UTC")),
    )
    state, held = schedule.State(), 0
    for hour in range(365 * 24):
        epoch_s = (begin + timedelta(hours=hour, minutes=30)).timestamp()
        state = state if state.is_good(epoch_s) else schedule.found(policy, epoch_s)
        held += schedule.floor(policy, state, epoch_s, 0.0) == 6
    assert held == 261 * 4
