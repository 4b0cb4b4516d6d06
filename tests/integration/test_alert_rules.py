"""promtool's own judgement of the alert rules, of Prometheus' configuration and of the exporter's page."""

import subprocess
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from bench.prometheus import binaries
from common.errors import AutoscalerError
from services.exporter.core.catalogue import METRICS
from services.exporter.core.render import Sample
from services.exporter.page import registry_of
from tests.faults.proof import Proof

PACKAGING = Path(__file__).resolve().parents[2] / "packaging" / "prometheus"


@pytest.fixture(scope="module")
def promtool() -> Path:
    """Return Debian's promtool."""
    try:
        return binaries() / "promtool"
    except AutoscalerError as error:
        pytest.skip(str(error))


def run(promtool: Path, *words: str, page: bytes | None = None) -> None:
    done = subprocess.run([promtool, *words], cwd=PACKAGING, input=page, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


def test_the_rules_are_rules(promtool: Path) -> None:
    run(promtool, "check", "rules", "autoscaler.rules.yml")


@pytest.mark.fault(29)
def test_every_rule_fires_when_it_is_to_and_not_before(promtool: Path, row: Proof) -> None:
    run(promtool, "test", "rules", "autoscaler.rules.test.yml")
    row.held("promtool: AutoscalerScaleInBlocked fires after ten minutes of that figure")


def test_every_rule_has_a_test() -> None:
    rules = (PACKAGING / "autoscaler.rules.yml").read_text(encoding="utf-8").split("- alert: ")[1:]
    tests = (PACKAGING / "autoscaler.rules.test.yml").read_text(encoding="utf-8")
    assert [
        rule.split()[0] for rule in rules if f"alertname: {rule.split()[0]}\n        exp_alerts:" not in tests
    ] == []


def test_the_configuration_is_one(promtool: Path) -> None:
    run(promtool, "check", "config", "--syntax-only", "prometheus.yml")


def test_names_help_and_units_follow_the_conventions(promtool: Path) -> None:
    samples = [Sample(name, tuple("a" for _ in metric.labels), 1.0) for name, metric in METRICS.items()]
    run(promtool, "check", "metrics", page=generate_latest(registry_of(lambda: samples)))
