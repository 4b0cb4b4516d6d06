"""The dashboard and the alert rules ask for metrics that exist, and leave none unseen."""

import re
from itertools import combinations
from pathlib import Path

import pytest

from bench import dashboard
from services.exporter.core.catalogue import METRICS

ROOT = Path(__file__).resolve().parents[2]
OWN = METRICS.keys() | {"autoscaler_exporter_process_resident_memory_bytes", "up"}
HAPROXY = {  # as HAProxy's own exporter names them
    "haproxy_backend_http_responses_total",
    "haproxy_backend_retry_warnings_total",
    "haproxy_backend_redispatch_warnings_total",
}
PANELS = list(dashboard.panels(dashboard.read()))


def alert_expressions() -> str:
    text = (ROOT / "packaging" / "prometheus" / "autoscaler.rules.yml").read_text(encoding="utf-8")
    return "\n".join(line for line in text.splitlines() if not re.match(r"\s*(#|summary:|description:|- alert:)", line))


def test_every_expression_names_existing_metrics_only() -> None:
    for panel in PANELS:
        for expression, _ in panel.targets:
            found = dashboard.metrics_in(expression)
            assert found, expression
            assert found <= OWN | HAPROXY, expression
    for annotation in dashboard.read()["annotations"]["list"]:
        assert dashboard.metrics_in(annotation["expr"]) <= METRICS.keys()


def test_every_alert_names_existing_metrics_only() -> None:
    words = set(re.findall(r"\bautoscaler_[a-z0-9_]+", alert_expressions()))
    assert words
    assert words <= METRICS.keys()


def test_every_metric_is_on_the_dashboard_or_in_an_alert() -> None:
    seen = {name for panel in PANELS for expression, _ in panel.targets for name in dashboard.metrics_in(expression)}
    seen |= set(re.findall(r"\bautoscaler_[a-z0-9_]+", alert_expressions()))
    listed = {"autoscaler_build_info", "autoscaler_service_info", "autoscaler_events_total"}  # for people who ask
    assert METRICS.keys() - seen <= listed | {"autoscaler_group_mode", "autoscaler_domain_allotted_cpus"}


def test_counters_are_shown_by_their_growth() -> None:
    for panel in PANELS:
        for expression, _ in panel.targets:
            for name in dashboard.metrics_in(expression):
                assert not name.endswith("_total") or re.search(r"(rate|increase)\(" + name, expression), expression


def test_every_legend_uses_labels_that_its_metrics_have() -> None:
    for panel in PANELS:
        for expression, legend in panel.targets:
            known = {
                label for name in dashboard.metrics_in(expression) & METRICS.keys() for label in METRICS[name].labels
            }
            assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= known | {"proxy", "code"}, legend


def test_no_two_panels_overlap_and_none_leaves_the_grid() -> None:
    for panel in PANELS:
        assert panel.x + panel.width <= 24
    for one, other in combinations(PANELS, 2):
        is_beside = one.x + one.width <= other.x or other.x + other.width <= one.x
        is_below = one.y + one.height <= other.y or other.y + other.height <= one.y
        assert is_beside or is_below, (one.title, other.title)


def test_panels_have_identifiers_of_their_own_and_the_chosen_source() -> None:
    found = dashboard.read()["panels"]
    assert len({panel["id"] for panel in found}) == len(found)
    for panel in found:
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.parametrize("name", ["datasources", "dashboards"])
def test_grafana_finds_its_provisioning(name: str) -> None:
    text = (ROOT / "packaging" / "grafana" / "provisioning" / name / "libvirt-autoscaler.yml").read_text()
    assert "apiVersion: 1" in text
    assert f"\n{'datasources' if name == 'datasources' else 'providers'}:\n" in text
