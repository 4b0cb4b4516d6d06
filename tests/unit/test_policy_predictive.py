"""The forecast as a policy: what is learned, what it votes, and that what was learned survives."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from common.config import Predictive
from common.config_file import parse
from common.errors import ConfigError
from services.decider.core import learned, policies
from services.decider.core.metrics import GroupMetrics
from services.decider.core.policies import predictive
from services.decider.core.policies.predictive import FIRST_STEPS, State, load_of, recommend
from services.decider.core.state import begin, learned_of
from services.decider.library import Library
from tests.sim.decider_model import settings as group_settings
from tests.unit.policy_ticks import ballots, metrics

KIND = policies.KINDS["predictive"]


def policy(**changes: Any) -> Predictive:
    return Predictive.model_validate({"mode": "on", "step_s": 10.0, "lead_s": 20.0} | changes)


def taught(loads: list[float], ready: int = 4, begin_s: float = 0.0, given_policy: Predictive | None = None) -> State:
    """Return the state after steps of 10 s with these loads in busy domains."""
    state = KIND.start()
    for tick in range(10 * len(loads)):
        _, state = recommend(given_policy or policy(), state, busy(loads[tick // 10], ready), begin_s + tick)
    return state


def test_members_that_warm_up_are_taken_to_carry_what_the_others_do() -> None:
    seen = metrics(0.75, ready=4, low=0.5, warming=2)
    assert load_of(policy(), seen) == pytest.approx(2.0)
    assert load_of(policy(), replace(seen, warming=4)) == pytest.approx(3.0)  # all are new: nothing better is known
    assert load_of(policy(), replace(seen, warming=0)) == pytest.approx(3.0)


def busy(load: float, ready: int = 4, **changes: Any) -> GroupMetrics:
    return metrics(min(load / ready, 1.0), ready=ready, **changes)


def known(state: State) -> int:
    assert state.forecast is not None
    return state.forecast.points.known


def test_it_votes_only_when_it_has_learned_for_a_while() -> None:
    found = ballots(policy(), [busy(2.0)] * (10 * FIRST_STEPS + 1), begin_s=0.0)
    assert {vote.capacity for vote in found[:-1]} == {None}
    assert {vote.weight for vote in found[:-1]} == {"floor"}
    assert found[0].reason == "it learns: 0 of 10 steps of 10 s known"
    assert (found[-1].capacity, found[-1].weight) == (4, "floor")


def test_a_steady_load_is_forecast_as_it_is() -> None:
    state = taught([2.0] * 60)
    assert state.advice is not None
    low, middle, high = state.advice.band
    assert low <= middle <= high
    assert 1.85 < middle < 2.15
    assert state.advice.capacity == 4  # 2.0 / 0.6


def test_a_rising_load_asks_for_what_the_lead_time_will_need() -> None:
    rising = [1.0 + 0.05 * step for step in range(60)]
    state = taught(rising, ready=8)
    assert state.advice is not None
    assert state.advice.lead_s == 30.0  # the step in which it is noticed, and two to boot
    assert state.advice.band[1] > rising[-2] + 0.03
    assert state.advice.capacity >= math.ceil((rising[-2] + 3 * 0.05) / 0.6)


def test_the_vote_is_never_below_what_is_desired_and_shows_its_wish() -> None:
    vote, _ = recommend(policy(), taught([0.5] * 20), busy(0.5, ready=6), 200.0)
    assert vote.capacity == 6
    assert vote.wanted is not None
    assert vote.wanted < 6


def test_the_reason_states_the_band_and_how_often_it_held() -> None:
    vote, _ = recommend(policy(), taught([2.0, 2.2] * 30), busy(2.0), 600.0)
    for part in ("in 30 s low ", ", mid ", ", high ", " busy domains (80 % band, which held ", "60 steps known): "):
        assert part in vote.reason
    assert vote.reason.endswith("would do")


@pytest.mark.parametrize(("boot_s", "lead_s"), [(None, 30.0), (5.0, 20.0), (35.0, 50.0), (1e9, 1200.0)])
def test_the_lead_is_the_measured_boot_or_the_configured_one_until_there_is_one(
    boot_s: float | None, lead_s: float
) -> None:
    state = KIND.start()
    for tick in range(121):
        _, state = recommend(policy(), state, busy(2.0, boot_s=boot_s), float(tick))
    assert state.advice is not None
    assert state.advice.lead_s == lead_s


def test_requests_can_be_forecast_instead_of_cpu_use() -> None:
    used = policy(metric="requests-per-domain", target_requests_per_s=10.0)
    state = KIND.start()
    for tick in range(400):
        _, state = recommend(used, state, busy(0.1, request_rate=100.0), float(tick))
    assert state.advice is not None
    assert 10 <= state.advice.capacity <= 12
    vote, _ = recommend(used, state, busy(0.1, request_rate=None, is_traffic_known=False), 400.0)
    assert (vote.capacity, vote.weight) == (None, "floor")


# --- what is not learned ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{"unknown": 1}, {"unknown": 4}, {"is_membership_fresh": False}, {"ready": 0, "desired": 4}]
)
def test_unknown_figures_are_not_learned_and_have_no_vote(changes: dict[str, Any]) -> None:
    state = taught([2.0] * 20)
    before = known(state)
    for tick in range(200, 260):
        vote, state = recommend(policy(), state, metrics(0.9, **{"ready": 4, **changes}), float(tick))
        assert (vote.capacity, vote.weight) == (None, "floor")
    assert known(state) == before + 1  # the step that was complete when the figures ended


def test_a_step_seen_for_less_than_half_is_unknown() -> None:
    state = taught([2.0] * 20)
    for tick in range(200, 221):
        seen = busy(2.0) if tick % 10 < 4 else busy(2.0, unknown=1)
        _, state = recommend(policy(), state, seen, float(tick))
    assert known(state) == 20


def test_a_figure_that_arrives_twice_or_late_counts_once() -> None:
    state = taught([2.0] * 20)
    for at_s in (200.0, 200.0, 200.0, 199.0):
        _, state = recommend(policy(), state, busy(4.0), at_s)
    assert (state.under_way.total, state.under_way.count) == (4.0, 1)


def test_old_advice_ends_with_the_lead_time_it_was_about() -> None:
    state = taught([2.0] * 20)
    later, _ = recommend(policy(), state, busy(2.0), 200.0 + 3600.0)
    assert (later.capacity, later.weight) == (None, "floor")
    assert later.reason == "too much is unknown since the last of 20 known steps of 10 s"


def test_a_gap_of_weeks_is_bridged_at_once() -> None:
    _, state = recommend(policy(), taught([2.0] * 20), busy(2.0), 200.0 + 30 * 86400.0)
    assert state.forecast is not None
    assert state.forecast.step == state.step - 1
    assert known(state) == 20


def test_a_skip_is_the_same_as_observing_nothing_as_often() -> None:
    state = taught([2.0, 2.5] * 10)
    assert state.learned is not None
    assert state.forecast is not None
    _, skipped = learned.skipped(state.learned, state.forecast, 7)
    one_by_one = state.forecast
    for _ in range(7):
        one_by_one = learned.forecast.observe(one_by_one, math.nan)
    assert learned.forecast_store.to_values(skipped) == learned.forecast_store.to_values(one_by_one)


@pytest.mark.parametrize("back_s", [30.0, 5000.0])
def test_a_clock_set_back_unlearns_nothing_and_it_goes_on(back_s: float) -> None:
    state, offset_s = taught([2.0] * 20, begin_s=100_000.0), 0.0
    for tick in range(400):
        offset_s = -back_s if tick >= 5 else 0.0
        _, state = recommend(policy(), state, busy(2.0, epoch_offset_s=offset_s), 100_200.0 + tick)
    assert 20 + 400 // 10 - 5 <= known(state) <= 20 + 400 // 10 + 1
    assert state.advice is not None


# --- what is kept ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 19, 20, 21, 45])
def test_what_was_learned_survives_as_bytes_exactly(steps: int) -> None:
    state = taught([2.0 + 0.1 * (step % 7) for step in range(steps)])
    assert state.learned is not None
    kept = learned.from_bytes(learned.base_bytes(state.learned), learned.tail_bytes(state.learned))
    again = predictive.resume(policy(), kept)
    assert again.advice == state.advice
    assert again.step == state.step
    assert state.forecast is not None
    assert again.forecast is not None
    assert learned.forecast_store.to_values(again.forecast) == learned.forecast_store.to_values(state.forecast)
    assert learned.to_text(learned.from_text(learned.to_text({0: kept}))) == learned.to_text({0: state.learned})


def test_the_state_is_bounded() -> None:
    state = taught([2.0 + math.sin(step) for step in range(200)])
    assert state.learned is not None
    assert len(state.learned.tail) < learned.BASE_STEPS
    assert len(learned.base_bytes(state.learned)) < 300_000
    assert len(learned.tail_bytes(state.learned)) < 2_000
    assert len(state.under_way.bands) <= 4


def test_a_tail_older_than_its_base_gives_its_newer_steps() -> None:
    early, late = taught([2.0] * 15).learned, taught([2.0] * 25).learned
    assert early is not None
    assert late is not None
    assert late.base is not early.base
    kept = learned.from_bytes(learned.base_bytes(late), learned.tail_bytes(early))
    assert kept.tail == ()
    assert learned.from_bytes(learned.base_bytes(early), learned.tail_bytes(late)).tail == ()


@pytest.mark.parametrize("damage", [b"", b"x", b"\x00" * 100])
def test_damaged_bytes_are_refused(damage: bytes) -> None:
    with pytest.raises(ValueError, match=r"cannot be unpacked|cut off"):
        learned.from_bytes(damage, b"")


def test_bytes_of_another_kind_are_refused() -> None:
    one = taught([2.0] * 3).learned
    assert one is not None
    base, tail = learned.base_bytes(one), learned.tail_bytes(one)
    with pytest.raises(ValueError, match="not of the right form"):
        learned.from_bytes(tail, base)
    with pytest.raises(ValueError, match="cut off"):
        learned.from_bytes(base[:-10], tail)
    with pytest.raises(ValueError, match="version must be 1"):
        learned.from_bytes(learned.zlib.compress(learned.msgpack.packb({"version": 2})), tail)
    with pytest.raises(ValueError, match="extra data"):
        learned.from_text("AAAA")
    with pytest.raises(ValueError, match="not of the right form"):
        learned.from_text("wA==")
    with pytest.raises(ValueError, match=r"learned of cpu/10, and cpu/30 is configured"):
        predictive.resume(policy(step_s=30.0), one)


@pytest.mark.parametrize("value", [1e21, -1e21, float("inf")])
@pytest.mark.parametrize(("part", "name"), [("base", "origin"), ("tail", "after")])
def test_a_figure_that_could_not_be_kept_again_is_refused(part: str, name: str, value: float) -> None:
    one = taught([2.0] * 3).learned
    assert one is not None
    parts = {"base": learned.base_bytes(one), "tail": learned.tail_bytes(one)}
    parts[part] = learned._packed({**learned._unpacked(parts[part]), name: value})
    with pytest.raises(ValueError, match=r"must be in ±1e\+15"):
        learned.from_bytes(**parts)


def test_the_library_keeps_what_was_learned_and_begins_anew_where_it_is_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configured = group_settings(policies=[{"type": "threshold"}, {"type": "predictive", "step_s": 10.0}])
    library, one = Library(tmp_path / "learned"), taught([2.0] * 30).learned
    assert one is not None
    assert library.learned(configured) == {}
    library.save("web", 1, one, is_base_new=True)
    kept = library.learned(configured)
    state = begin(configured, learned=kept)
    assert learned.to_text(learned_of(state)) == learned.to_text({1: one})
    (tmp_path / "learned" / "web.1.tail").unlink()
    assert library.learned(configured)[1].tail == ()
    (tmp_path / "learned" / "web.1.base").write_bytes(b"damaged")
    assert library.learned(configured) == {}
    (tmp_path / "learned" / "web.1.base").write_bytes(b"x" * (2 * 1024 * 1024))
    assert library.learned(configured) == {}
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count("learned-state-ignored") == 2


def test_a_library_that_cannot_be_written_is_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    one = taught([2.0] * 3).learned
    assert one is not None
    Library(tmp_path / "file").save("web", 0, one, is_base_new=True)


def test_what_was_learned_of_another_configuration_is_left_alone(tmp_path: Path) -> None:
    library, one = Library(tmp_path), taught([2.0] * 3).learned
    assert one is not None
    library.save("web", 0, one, is_base_new=True)
    assert library.learned(group_settings(policies=[{"type": "predictive", "step_s": 60.0}])) == {}
    assert library.learned(group_settings()) == {}
    assert library.learned(group_settings(policies=[{"type": "predictive", "step_s": 10.0}])) != {}


# --- the configuration -----------------------------------------------------------------------------------------------

HEAD = '[groups.web]\nprefix = "web-"\n[[groups.web.policies]]\ntype = "predictive"\n'


def test_by_default_it_only_observes() -> None:
    found = parse(HEAD.encode(), "autoscaler.toml").groups["web"].policies[0]
    assert isinstance(found, Predictive)
    assert found.mode == "observe"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('metric = "requests-per-domain"', "metric 'requests-per-domain' needs target_requests_per_s"),
        ("target_requests_per_s = 5", "metric 'cpu' takes target_ratio, not target_requests_per_s"),
        ('metric = "queue"', "'cpu' or 'requests-per-domain'; got 'queue'"),
        ("step_s = 1", "greater than or equal to 5"),
        ("headroom = -1", "greater than or equal to 0"),
        ('mode = "off"', "'on' or 'observe'; got 'off'"),
    ],
)
def test_an_impossible_forecast_is_refused(text: str, error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse((HEAD + text).encode(), "autoscaler.toml")
    assert error in str(caught.value)


# --- properties ------------------------------------------------------------------------------------------------------


@given(loads=st.lists(st.floats(0.0, 4.0), min_size=11, max_size=25), headroom=st.floats(0.0, 4.0))
@hypothesis_settings(max_examples=20, deadline=None)
def test_whatever_was_seen_the_advice_is_finite_and_the_vote_never_below_desired(
    loads: list[float], headroom: float
) -> None:
    used = policy(headroom=headroom)
    vote, state = recommend(used, taught(loads, given_policy=used), busy(loads[-1]), 10.0 * len(loads))
    assert state.advice is not None
    assert 0 <= state.advice.capacity <= 1_000_000
    assert all(math.isfinite(value) and value >= 0 for value in state.advice.band)
    assert vote.capacity is not None
    assert vote.capacity >= 4


@given(loads=st.lists(st.floats(0.1, 1.0), min_size=11, max_size=25), factor=st.floats(1.0, 4.0))
@hypothesis_settings(max_examples=20, deadline=None)
def test_a_load_that_is_larger_all_the_time_asks_for_no_fewer(loads: list[float], factor: float) -> None:
    less, more = taught(loads).advice, taught([load * factor for load in loads]).advice
    assert less is not None
    assert more is not None
    assert more.capacity >= less.capacity


def test_more_headroom_asks_for_no_fewer() -> None:
    state = taught([2.0, 3.0, 2.5, 1.0] * 8)
    assert state.forecast is not None
    found = [predictive._advised(policy(headroom=h / 4), state, 3).advice for h in range(40)]
    wanted = [advice.capacity for advice in found if advice]
    assert wanted == sorted(wanted)
    assert len(wanted) == 40
