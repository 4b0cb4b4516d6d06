"""A simulation gives each decision its delay, counts as SPEC does, and refuses what it cannot use."""

import json
import math
from pathlib import Path

import pytest

from cli import simulate, simulate_group, traces
from cli.traces import Trace
from common.config import Config, Group
from common.errors import AutoscalerError, ConfigError

EXAMPLE = Path(__file__).resolve().parents[2] / "autoscaler.toml"


def trace(*requests: float, step_s: float = 60.0) -> Trace:
    return Trace("test", step_s, tuple(number * step_s for number in range(len(requests))), requests)


@pytest.mark.parametrize("lead_steps", [1, 2, 5])
def test_a_decision_serves_after_its_lead_and_not_before(lead_steps: int) -> None:
    run = simulate.played(trace(30, 10, 20, 0, 0, 0, 0), 10, lead_steps, 0.0, [7, 6, 5, 4, 3, 2, 1])
    assert run.demand == (3, 1, 2, 0, 0, 0, 0)
    assert run.supply == ((3,) * lead_steps + (7, 6, 5, 4, 3, 2, 1))[:7]


def test_a_run_knows_nothing_of_the_future() -> None:
    calm = [100.0 + number % 7 for number in range(200)]
    known = simulate.simulate(trace(*calm, *[100.0] * 50), 10, 2, [1.0])[0]
    other = simulate.simulate(trace(*calm, *[9000.0] * 50), 10, 2, [1.0])[0]
    assert known.supply[:202] == other.supply[:202]
    assert known.supply[202] < other.supply[202]


def test_more_headroom_misses_less_and_spares_more() -> None:
    runs = simulate.simulate(traces.synthetic("diurnal", 1), 100, 1, (0.0, 1.0, 2.0, 4.0))
    under, over = [run.metrics.theta_u for run in runs], [run.metrics.theta_o for run in runs]
    assert under == sorted(under, reverse=True)
    assert over == sorted(over)


def test_auto_has_forty_settings_in_order() -> None:
    settings = simulate.headrooms_of("headroom=auto")
    assert len(set(settings)) == 40
    assert list(settings) == sorted(settings)


def test_json_of_one_run_has_every_step_and_every_metric(capsys: pytest.CaptureFixture[str]) -> None:
    simulate.run(synthetic="ramp", requests_per_domain=100, lead_time_s=60, headroom=1.0, as_json=True)
    answer = json.loads(capsys.readouterr().out)
    assert set(answer) == {"steps", "metrics"}
    assert len(answer["steps"]) == 1440
    assert set(answer["steps"][0]) == {"t_s", "demand", "supply", "desired"}
    assert set(answer["metrics"]) == {
        "theta_u",
        "theta_o",
        "tau_u",
        "tau_o",
        "upsilon",
        "mean_supply",
        "mean_demand",
        "starts",
        "stops",
        "direction_changes_per_hour",
    }


def test_json_of_a_sweep_has_one_entry_a_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "load.csv"
    path.write_text("t_seconds,requests\n" + "".join(f"{60 * n},{100 + n % 5}\n" for n in range(30)), encoding="utf-8")
    simulate.run(trace_path=path, requests_per_domain=10, lead_time_s=0, sweep="headroom=0,2", as_json=True)
    answer = json.loads(capsys.readouterr().out)
    assert [one["headroom"] for one in answer["sweep"]] == [0.0, 2.0]
    assert answer["sweep"][0]["metrics"]["mean_demand"] == pytest.approx(11 - 1 / 5)


def test_the_text_shows_the_metrics_and_the_picture_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for sweep in (None, "headroom=0,1,2"):
        picture = tmp_path / f"{sweep}.png"
        simulate.run(synthetic="spike", requests_per_domain=100, lead_time_s=60, sweep=sweep, png=picture)
        assert picture.read_bytes().startswith(b"\x89PNG")
    assert "headroom" in capsys.readouterr().out


def test_a_picture_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(AutoscalerError, match="the picture cannot be written"):
        simulate.run(synthetic="ramp", requests_per_domain=100, lead_time_s=60, png=tmp_path / "absent" / "a.png")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"requests_per_domain": 0.0}, "--requests-per-domain must be > 0 and .*; got 0.0"),
        ({"requests_per_domain": math.nan}, "--requests-per-domain must be > 0 and .*; got nan"),
        ({"lead_time_s": -1.0}, "--lead-time must be finite and >= 0 seconds; got -1.0"),
        ({"lead_time_s": 1e9}, "--lead-time must be at most 3600 steps of 60 s"),
        ({"headroom": -1.0}, "headroom must be finite and >= 0; got -1.0"),
        ({"headroom": math.inf}, "headroom must be finite and >= 0; got inf"),
        ({"sweep": ""}, "--sweep must be headroom=auto or headroom=a,b,c; got ''"),
        ({"group": "web"}, "--group names a group of --config FILE"),
        ({"seed": -1}, "--seed must be >= 0; got -1"),
        ({"requests_per_domain": 1e-30}, r"would need .* domains; at most 1000000 can be counted"),
        ({"requests_per_domain": 1e30}, r"--requests-per-domain must be > 0 and <= 1e\+15; got 1e\+30"),
        ({"sweep": "headroom=0,many"}, "--sweep must be headroom=auto or headroom=a,b,c with numbers"),
        ({"sweep": "lead=1"}, "--sweep must be headroom=auto or headroom=a,b,c; got 'lead=1'"),
        ({"sweep": "headroom=-1"}, "headroom must be finite and >= 0; got -1.0"),
        ({"sweep": "headroom=1", "headroom": 1.0}, "cannot be used together"),
        ({"config": EXAMPLE, "headroom": 1.0}, "--config decides by the group's own policies"),
        ({"config": EXAMPLE, "group": "absent"}, "--group must be one of web; got absent"),
        ({"synthetic": None}, "one of --trace FILE.csv and --synthetic KIND is needed"),
        ({"trace_path": EXAMPLE}, "one of --trace FILE.csv and --synthetic KIND is needed, and only one"),
        ({"synthetic": "storm"}, "--synthetic must be one of"),
    ],
)
def test_an_impossible_option_is_refused(options: dict[str, object], message: str) -> None:
    given = {"synthetic": "ramp", "requests_per_domain": 100.0, "lead_time_s": 60.0, **options}
    with pytest.raises(ConfigError, match=message):
        simulate.run(**given)  # type: ignore[arg-type]


def test_a_picture_of_no_kind_is_refused_before_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AutoscalerError, match=r"must end in .png or .svg; got 'a.txt'"):
        simulate.run(synthetic="ramp", requests_per_domain=100, lead_time_s=60, png=tmp_path / "a.txt")
    assert capsys.readouterr().out == ""


def test_a_huge_headroom_and_a_lead_of_many_steps_are_taken() -> None:
    load = trace(*[10.0, 20.0] * 150, step_s=1.0)
    most, more = simulate.simulate(load, 10, simulate.lead_steps_of(180, 1), [20.0, 1e6])
    assert most.desired == more.desired
    assert more.supply[:181] == (1,) * 180 + more.desired[:1]


def of_policies(policies: list[dict[str, object]], load: Trace, lead_steps: int = 1) -> simulate.Run:
    group = Group.model_validate({"prefix": "web-", "max": 20, "policies": policies})
    return simulate_group.of_group(load, 10, lead_steps, group, Config(groups={"web": group}))


def test_a_calendar_goes_by_the_epoch_seconds_of_the_trace() -> None:
    begins_s = 1_795_996_800.0  # 2026-11-30 00:00:00 UTC, a Monday
    times = tuple(begins_s + 3600.0 * hour for hour in range(48))
    morning = {"type": "schedule", "cron": "0 8 * * MON", "duration_s": 7200.0, "capacity": 6}
    run = of_policies([morning], Trace("two days", 3600.0, times, (5.0,) * 48))
    assert [hour for hour, wanted in enumerate(run.desired) if wanted > 4] == [7, 8, 9]


def test_a_response_time_is_modelled_so_that_a_policy_that_looks_at_it_decides() -> None:
    by_response = {"type": "target-tracking", "metric": "response-time", "target_response_time_s": 12.0}
    run = of_policies([by_response], trace(*[5.0] * 30, *[38.0] * 60, *[1.0] * 90))
    assert max(run.desired) >= 4
    assert run.desired[-1] < max(run.desired)


def test_the_lead_time_is_what_a_forecast_looks_ahead() -> None:
    forecast = {"type": "predictive", "mode": "on", "step_s": 60.0, "target_ratio": 0.6}
    ramp = trace(*[20.0] * 60, *[20.0 + 2.0 * step for step in range(60)])
    near, far = (of_policies([forecast], ramp, lead_steps).desired[75:] for lead_steps in (1, 10))
    assert all(later >= sooner for later, sooner in zip(far, near, strict=True))
    assert sum(far) > sum(near)


def test_a_group_of_a_configuration_scales_by_its_own_policies(capsys: pytest.CaptureFixture[str]) -> None:
    simulate.run(synthetic="diurnal", requests_per_domain=700, lead_time_s=60, config=EXAMPLE, as_json=True)
    answer = json.loads(capsys.readouterr().out)
    supply = [step["supply"] for step in answer["steps"]]
    assert min(supply) >= 1
    assert 2 <= max(supply) <= 4
    assert answer["metrics"]["starts"] >= 1
    assert answer["metrics"]["stops"] >= 1


def test_bounds_hold_for_a_configured_group() -> None:
    group = Group.model_validate({"prefix": "web-", "min": 2, "max": 3})
    run = simulate_group.of_group(trace(*[0.0] * 20, *[9000.0] * 20), 10, 1, group, Config(groups={"web": group}))
    assert set(run.supply) == {2, 3}
