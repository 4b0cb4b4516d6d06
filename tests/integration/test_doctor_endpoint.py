"""``doctor`` beside the real HAProxy, balancer and bus: an outage is an error, and says who fails."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.balancer_stand import Stand

DEADLINE_S = 90.0


@pytest.fixture
def stand() -> Iterator[Stand]:
    stand = Stand()
    yield stand
    stand.close()


def endpoint_of(stand: Stand) -> dict[str, Any]:
    """Return what the command finds at the group's endpoint, while the stand goes on speaking as actuator."""
    command = [sys.executable, "-m", "cli", "--config", str(stand.path), "doctor", "--json"]
    environment = os.environ | {"AUTOSCALER_HOSTS__LOCAL__URI": "test:///default"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as process:
        stand.until(lambda: process.poll() is not None, "the doctor's round", DEADLINE_S)
        assert process.stdout is not None
        findings = json.loads(process.stdout.read())["findings"]
    (found,) = [finding for finding in findings if finding["check"] == "endpoint"]
    return dict(found)


def test_an_outage_is_an_error_and_a_group_that_serves_is_well(stand: Stand) -> None:
    domains = [stand.domain(number) for number in range(2)]
    stand.join(*domains)
    well = endpoint_of(stand)
    assert (well["level"], well["what"]) == ("ok", f"2 of 1 serve; http://127.0.0.1:{stand.port}/ answers 200")
    for domain in domains:
        domain.sick.touch()
    stand.until(lambda: all(b.is_healthy is False for b in stand.drains["web"].backends), "both fail their checks")
    found = endpoint_of(stand)
    assert found["level"] == "error"
    assert found["what"].startswith(
        f"0 of 1 serve; http://127.0.0.1:{stand.port}/ answers 503 for /healthz; readiness wants 200; "
    )
    assert "web-0000 is ready, but its check fails" in found["what"]
    assert found["mend"].startswith("autoscaler status")
