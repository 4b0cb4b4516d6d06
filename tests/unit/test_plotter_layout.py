"""Where everything stands in the picture."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import Config
from common.messages import Event, HostSample, Member, Membership
from common.phases import Phase
from services.plotter.core import series
from services.plotter.core.axis import TimeAxis
from services.plotter.core.layout import Panel, arrange, curve, mark_spots, spread
from services.plotter.core.series import Mark, State
from services.plotter.core.view import GroupView, views

VIEW = GroupView("web", "web-", 5.0, ((0.8, "high 80%"), (0.35, "low 35%")))


def empty() -> State:
    return series.empty({"web": "web-"}, span_s=600.0, interval_s=1.0, stale_after_s=3.5)


def sampled(state: State, at_s: float, ratios: dict[str, float | None]) -> State:
    body = HostSample(
        host="local",
        interval_s=1.0,
        is_reachable=True,
        names=tuple(ratios),
        uuids=tuple("u" for _ in ratios),
        states=tuple("running" for _ in ratios),
        cpu_ratios=tuple(ratios.values()),
        allotted_cpus=tuple(1.0 for _ in ratios),
    )
    return series.handle(state, body, at_s)[0]


def panel(state: State, now_s: float) -> Panel:
    return arrange(state, [VIEW], now_s)[0]


# --- the time axis -------------------------------------------------------------------------------------------


def test_zero_lies_one_window_before_now_and_the_newest_sample_at_plus_window() -> None:
    axis = TimeAxis(600.0, 5.0)
    assert axis.seconds(at_s=1000.0, now_s=1000.0) == 5.0
    assert axis.seconds(at_s=995.0, now_s=1000.0) == 0.0
    assert axis.position(5.0) == 1.0


@given(
    span_s=st.floats(30, 7 * 86400), window_s=st.floats(0.5, 29), seconds=st.tuples(st.floats(0, 1), st.floats(0, 1))
)
def test_later_is_further_right_within_the_picture(
    span_s: float, window_s: float, seconds: tuple[float, float]
) -> None:
    axis = TimeAxis(span_s, window_s)
    earlier, later = sorted(axis.first_s + span_s * share for share in seconds)
    assert -1e-9 <= axis.position(earlier) <= axis.position(later) <= 1 + 1e-9
    assert axis.position(axis.first_s) == pytest.approx(0.0, abs=1e-9)
    assert axis.position(window_s) == pytest.approx(1.0)


def test_the_window_that_decides_is_wide_enough_to_be_seen() -> None:
    for span_s in (60.0, 600.0, 86400.0):
        assert 1 - TimeAxis(span_s, 5.0).position(0.0) > 0.08


def test_the_scale_changes_once_and_only_where_that_is_needed() -> None:
    assert TimeAxis(600.0, 5.0).break_s == -15.0
    assert TimeAxis(600.0, 60.0).break_s is None
    assert TimeAxis(600.0, 60.0).position(0.0) == pytest.approx(0.9)


@pytest.mark.parametrize("span_s", [60.0, 600.0, 3600.0, 86400.0, 7 * 86400.0])
@pytest.mark.parametrize("window_s", [1.0, 5.0, 60.0])
def test_ticks_name_zero_and_the_end_and_keep_apart(span_s: float, window_s: float) -> None:
    ticks = TimeAxis(span_s, window_s).ticks() if window_s < span_s else [(0.0, "0"), (1.0, f"+{window_s:g}")]
    assert [text for _, text in ticks][-2:] == ["0", f"+{window_s:g}"]
    assert all(0 <= x <= 1 for x, _ in ticks)
    assert all(b - a > 0.01 for (a, _), (b, _) in pairwise(ticks))
    assert 2 <= len(ticks) <= 12


# --- lines -----------------------------------------------------------------------------------------------------


def test_unknown_is_a_gap_in_the_line() -> None:
    axis = TimeAxis(100.0, 50.0)
    drawn = curve(((0.0, 0.5), (10.0, None), (20.0, 0.7)), axis, now_s=100.0)
    assert drawn.xs == pytest.approx((0.0, 0.1, 0.2))
    assert drawn.ys[0] == 0.5 and math.isnan(drawn.ys[1]) and drawn.ys[2] == 0.7


def test_a_line_from_before_the_span_comes_in_at_the_left_edge() -> None:
    axis = TimeAxis(100.0, 50.0)
    drawn = curve(((90.0, 0.0), (110.0, 1.0)), axis, now_s=200.0)
    assert drawn.xs == pytest.approx((0.0, 0.1))
    assert drawn.ys == pytest.approx((0.5, 1.0))


def test_each_domain_has_its_name_at_the_height_of_its_newest_value() -> None:
    (line,) = panel(sampled(empty(), 10.0, {"web-0003": 0.5}), 10.0).lines
    assert (line.name, line.index, line.label) == ("web-0003", 3, "web-0003  50%")
    assert (line.value_y, line.label_y, line.opacity) == (0.5, 0.5, 1.0)


def test_an_unknown_value_is_a_question_mark_and_a_phase_other_than_ready_is_said() -> None:
    state = sampled(empty(), 10.0, {"web-0000": None})
    member = Member(name="web-0000", uuid="u", host="l", phase=Phase.BOOTING, since_s=0, age_s=0, address=None, port=80)
    told = Membership(group="web", generation_seen=1, desired_seen=1, members=(member,), owned_total=1, ceiling=2)
    state, _ = series.handle(state, told, 10.0)
    assert panel(state, 10.0).lines[0].label == "web-0000  ?  booting"


def test_a_domain_that_is_gone_fades_and_loses_its_label() -> None:
    state = sampled(empty(), 0.0, {"web-0000": 0.5, "web-0001": 0.5})
    opacities = []
    for at_s in (10.0, 200.0, 500.0):
        state = sampled(state, at_s, {"web-0001": 0.5})
        gone, stays = panel(state, at_s).lines
        assert (gone.name, gone.label, stays.opacity) == ("web-0000", "", 1.0)
        opacities.append(gone.opacity)
    assert 1.0 > opacities[0] > opacities[1] > opacities[2] > 0.0


def test_the_headline_tells_what_is_known_and_what_is_not() -> None:
    assert panel(empty(), 10.0).headline == "? ready of ? desired  ·  mean CPU unknown"
    assert panel(sampled(empty(), 10.0, {"web-0000": 0.42}), 10.0).headline.endswith("mean CPU 42%")


def test_a_value_that_is_stale_is_not_told_as_if_it_were_fresh() -> None:
    assert panel(sampled(empty(), 10.0, {"web-0000": 0.42}), 20.0).headline.endswith("mean CPU unknown")


def test_counts_are_held_up_to_now_unless_they_are_stale() -> None:
    told = Membership(group="web", generation_seen=1, desired_seen=1, members=(), owned_total=0, ceiling=2)
    state, _ = series.handle(empty(), told, 10.0)
    assert panel(state, 12.0).ready.xs[-1] == 1.0
    assert panel(state, 20.0).ready.xs[-1] < 1.0


def test_the_panel_says_which_window_decides() -> None:
    drawn = panel(empty(), 0.0)
    assert drawn.window_label == "window that decides (5 s)"
    assert drawn.zero_x == TimeAxis(600.0, 5.0).position(0.0)


# --- labels and marks --------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1.03), max_size=30), st.floats(0.001, 0.2))
def test_labels_keep_apart_stay_in_order_and_within_the_picture(wanted: list[float], gap: float) -> None:
    placed = spread(wanted, gap, 1.03)
    room = min(gap, 1.03 / max(len(wanted) - 1, 1))
    heights = sorted(placed)
    assert all(b - a >= room - 1e-9 for a, b in pairwise(heights))
    assert all(-1e-6 <= y <= 1.03 + 1e-6 for y in placed)
    order = sorted(range(len(wanted)), key=lambda at: (wanted[at], at))
    assert [placed[at] for at in order] == heights


def test_labels_that_have_room_stay_where_their_lines_end() -> None:
    assert spread([0.9, 0.1, 0.5], 0.05, 1.0) == [0.9, 0.1, 0.5]


def test_marks_of_the_group_and_of_all_stand_at_their_time() -> None:
    state = empty()
    for at_s, event in (
        (0.0, Event(name="scale-out", group="web", text="from 1 to 2")),
        (95.0, Event(name="host-lost")),
    ):
        state, _ = series.handle(state, event, at_s)
    spots = panel(state, 100.0).marks
    axis = TimeAxis(600.0, 5.0)
    assert [(spot.x, spot.kind, spot.text) for spot in spots] == [
        (axis.position(-95.0), "out", "1→2"),
        (axis.position(0.0), "trouble", "host lost"),
    ]


def test_a_text_that_would_run_into_the_next_mark_is_left_out() -> None:
    marks = [Mark(50.0, "out", "web", "1→2"), Mark(50.5, "failure", "web", "web-0001")]
    assert [spot.text for spot in mark_spots(marks, TimeAxis(600.0, 60.0), 100.0)] == ["", "web-0001"]


def test_marks_before_the_span_are_not_shown() -> None:
    assert mark_spots([Mark(0.0, "out", "web", "")], TimeAxis(60.0, 5.0), 100.0) == ()


# --- what the configuration says --------------------------------------------------------------------------------


def test_the_window_and_the_levels_come_from_the_policies() -> None:
    threshold = {"type": "threshold", "high_ratio": 0.7, "low_ratio": 0.2, "out_window_s": 8.0}
    tracking = {"type": "target-tracking", "target_ratio": 0.6, "out_stabilization_s": 0.0}
    groups = {
        "web": {"prefix": "web-", "policies": [threshold, tracking]},
        "api": {"prefix": "api-", "policies": [tracking], "endpoint": "127.0.0.1:8001"},
    }
    web, api = views(Config.model_validate({"groups": groups}))
    assert (web.window_s, web.levels) == (8.0, ((0.7, "high 70%"), (0.6, "target 60%"), (0.2, "low 20%")))
    assert (api.window_s, api.levels) == (1.0, ((0.6, "target 60%"),))
