"""The Grafana dashboard as data: its panels and what they ask of Prometheus."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DASHBOARD = ROOT / "packaging" / "grafana" / "dashboards" / "libvirt-autoscaler.json"
_METRIC = re.compile(r"\b(?:autoscaler|haproxy|process)_[a-z0-9_]+\b|\bup\b")


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: where it stands on Grafana's grid of 24 columns, and its expressions with their legends."""

    title: str
    kind: str
    x: int
    y: int
    width: int
    height: int
    unit: str
    style: dict[str, Any]
    targets: tuple[tuple[str, str], ...]


def read(path: Path = DASHBOARD) -> dict[str, Any]:
    """Return the dashboard as it stands in the file."""
    dashboard: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return dashboard


def panels(dashboard: dict[str, Any], group: str = ".*", rate_interval: str = "1m") -> Iterator[Panel]:
    """Yield every panel, rows too, with Grafana's variables replaced."""
    for panel in dashboard["panels"]:
        at, defaults = panel["gridPos"], panel.get("fieldConfig", {}).get("defaults", {})
        yield Panel(
            title=panel["title"],
            kind=panel["type"],
            x=at["x"],
            y=at["y"],
            width=at["w"],
            height=at["h"],
            unit=defaults.get("unit", "none"),
            style=defaults.get("custom", {}),
            targets=tuple(
                (filled(target["expr"], group, rate_interval), target["legendFormat"])
                for target in panel.get("targets", ())
            ),
        )


def filled(expression: str, group: str, rate_interval: str) -> str:
    """Return the expression as Grafana sends it."""
    return expression.replace("$group", group).replace("$__rate_interval", rate_interval)


def metrics_in(expression: str) -> set[str]:
    """Return the metrics that an expression names.

    >>> sorted(metrics_in('rate(autoscaler_a_total{x="up"}[1m]) / up'))
    ['autoscaler_a_total', 'up']
    """
    return set(_METRIC.findall(re.sub(r'"[^"]*"', "", expression)))
