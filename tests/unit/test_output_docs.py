"""docs/metrics.md and docs/notifications.md say what is: every metric, every class of events, an example that works."""

import re
import time
from pathlib import Path
from typing import Any

import pytest

from common.config_outputs import EVENT_CLASSES
from services.exporter.core.catalogue import METRICS
from services.notifier.core.signature import headers

DOCS = Path(__file__).resolve().parents[2] / "docs"
NOTIFICATIONS = (DOCS / "notifications.md").read_text(encoding="utf-8")


def test_every_metric_is_described_with_its_labels() -> None:
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(autoscaler_\w+)` \| (\w+) \| ([^|]*) \|", text, re.MULTILINE)
    assert rows == [(name, metric.kind, ", ".join(metric.labels) or "-") for name, metric in METRICS.items()]


def test_every_class_of_events_is_listed_with_its_events() -> None:
    rows = re.findall(r"^\| `([a-z]+)` \| ([a-z, -]+) \|$", NOTIFICATIONS, re.MULTILINE)
    assert {name: tuple(events.split(", ")) for name, events in rows} == EVENT_CLASSES


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    """Return what the example of the documentation defines."""
    found = re.search(r"```python\n(.*?)```", NOTIFICATIONS, re.DOTALL)
    assert found
    names: dict[str, Any] = {}
    exec(found[1], names)  # noqa: S102 - our own documentation
    return names


def test_the_documented_verification_takes_ours_and_nothing_else(example: dict[str, Any]) -> None:
    key, body, now = b"a secret of enough bytes", b'{"id": "x"}', int(time.time())  # noqa: TID251 - as the example
    verified = example["verified"]
    ours = headers("x", body, now, key)
    assert verified(ours, body, key)
    assert verified(ours | {"webhook-signature": f"v1,AAAA {ours['webhook-signature']}"}, body, key)
    assert not verified(ours, body + b" ", key)
    assert not verified(ours, body, b"another secret, as long")
    assert not verified(ours | {"webhook-id": "y"}, body, key)
    assert not verified(headers("x", body, now - 1000, key), body, key)
