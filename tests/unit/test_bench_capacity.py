"""What ``bench.capacity`` makes of its measurements; the measuring itself needs real guests."""

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from bench import capacity
from bench.capacity_picture import draw, page
from bench.capacity_raw import adapted
from bench.capacity_stages import NAMES
from bench.capacity_step import P99_TARGET_S, Answer, judge
from common.config import Network
from common.domain import METADATA_URI
from common.errors import AutoscalerError

NETWORK = Network(name="bench", subnet="10.1.2.0/24", slots=24)
XML = f"""<domain><name>b-cold-0000</name><uuid>1</uuid>
<metadata><a:member xmlns:a="{METADATA_URI}" group="cold"/></metadata>
<os><cmdline>quiet autoscaler.name=b-cold-0000 autoscaler.address=10.1.2.10/24 autoscaler.port=8080</cmdline></os>
<devices><interface><mac address="52:54:00:00:00:00"/></interface>
<serial><source path="/x/b-cold-0000.log"/></serial></devices></domain>"""


def test_the_raw_domain_is_the_same_under_another_name_in_the_last_slot() -> None:
    root = ET.fromstring(adapted(XML, "b-raw", NETWORK))
    assert (root.findtext("name"), root.find("uuid"), len(root.findall("metadata/*"))) == ("b-raw", None, 0)
    expected = f"quiet autoscaler.name=b-raw autoscaler.address={NETWORK.address(23)}/24 autoscaler.port=8080"
    assert root.findtext("os/cmdline") == expected
    mac, log = root.find("devices/interface/mac"), root.find("devices/serial/source")
    assert mac is not None and mac.get("address") == NETWORK.mac(23)
    assert log is not None and log.get("path") == "/x/b-raw.log"


def answers(*rows: tuple[float, float, str]) -> list[Answer]:
    return [Answer(at_s, took_s, 200 if by else 503, by) for at_s, took_s, by in rows]


def test_a_step_is_answered_by_the_first_other_domain_and_absorbed_after_the_last_bad_second() -> None:
    slow = P99_TARGET_S * 2
    found = judge(
        answers((9.5, 0.1, "a"), (10.1, slow, "a"), (10.6, 0.2, "b"), (11.2, slow, "a"), (12.3, 0.1, "c")), 10.0
    )
    assert (found["failed"], found["recovered_s"]) == (0, 2.0)
    assert found["answered_s"] == pytest.approx(0.8)
    assert found["p99_s"] == [(-1.0, 0.1), (0.0, slow), (1.0, slow), (2.0, 0.1)]


def test_a_step_that_is_never_answered_nor_absorbed_says_so() -> None:
    found = judge(answers((9.0, 0.1, "a"), (10.5, 5.0, "a"), (11.5, 0.1, "")), 10.0)
    assert (found["failed"], found["answered_s"], found["recovered_s"]) == (1, None, 1.0)
    assert judge(answers((9.0, 0.1, "a"), (10.5, 5.0, "a")), 10.0)["recovered_s"] is None


def tier(median_s: float | None, **changes: Any) -> dict[str, Any]:
    values = {"n": 10 if median_s else 0, "median_s": median_s, "p95_s": median_s, "ram_bytes": 0, "disk_bytes": 2**20}
    return values | changes


TIERS = {
    "raw": tier(3.0), "cold": tier(3.2), "clone": tier(None, notes=["not available: no snapshot"]),
    "saved": tier(1.2), "paused": tier(0.1), "burst": tier(0.02),
}  # fmt: skip


def test_goals_compare_medians_and_an_absent_tier_meets_none() -> None:
    found = {goal["goal"]: (goal["measured"], goal["is_met"]) for goal in capacity.goals(TIERS, None)}
    assert found["cold, times the raw loop"] == (pytest.approx(3.2 / 3.0), True)
    assert found["clone, of cold"] == (None, False)
    assert found["saved, of cold"][1] is False
    assert found["paused, seconds"] == (0.1, True)


def test_goals_are_not_met_by_fewer_rounds_than_asked_for() -> None:
    few = TIERS | {"paused": tier(0.1, n=capacity.ROUNDS - 1)}
    assert not any(goal["is_met"] for goal in capacity.goals(few, None))


STEP = {"requests": 9, "failed": 0, "answered_s": 0.7, "recovered_s": 2.0, "p99_target_s": 0.3, "p99_s": [(0.0, 0.2)]}


@pytest.mark.parametrize("step", [None, STEP, {"note": "no standby"}])
@pytest.mark.parametrize("stages", [[], [dict.fromkeys(NAMES["cold"], 0.5) | {"join": None}]])
def test_the_page_and_the_picture_show_what_there_is(step: Any, stages: Any, tmp_path: Path) -> None:
    result = {"tiers": TIERS, "stages": stages, "clone_stages": [], "step": step, "took_s": 300.0, "cpus": 2,
              "goals": capacity.goals(TIERS, step), "load_before": 0.1}  # fmt: skip
    text = page(result, capacity.MEANING)
    assert "| clone | a copy of a booted template's memory | 0 | - | - | 0 | 1 |" in text
    assert "- clone: not available: no snapshot" in text
    draw(tmp_path / "capacity.png", result)
    assert (tmp_path / "capacity.png").stat().st_size > 10_000


class _Membership:
    blocked = "no snapshot yet"


def test_a_tier_that_cannot_be_had_is_left_out_with_its_reason() -> None:
    world: Any = type("W", (), {"heard": type("H", (), {"membership": lambda *_: _Membership()})()})()
    bench = capacity.Bench(world, None)
    bench._leave_out("clone", AutoscalerError("waited 120 s"))
    assert bench.tiers["clone"].values()["notes"] == ["not available: waited 120 s; no snapshot yet"]
