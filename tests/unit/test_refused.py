"""A file that the disk refuses: noted, logged once each way, and due again."""

import math
from pathlib import Path

from structlog.testing import capture_logs

from common.refused import RETRY_S, Refused


def test_it_is_noted_until_it_is_written_and_logged_once_each_way() -> None:
    notes: dict[str, str] = {"other": "stays"}
    refused = Refused(notes, Path("/state/x.json"), "what it knew")
    with capture_logs() as lines:
        refused.note("")
        for _ in range(3):
            refused.note("x.json cannot be written: No space left on device")
        assert notes["x.json"] == "x.json cannot be written: No space left on device; a restart forgets what it knew"
        refused.note("")
        refused.note("")
    assert notes == {"other": "stays"}
    assert [line["event"] for line in lines] == ["state-not-written", "state-written-again"]


def test_it_is_due_again_at_a_pace_and_only_while_it_is_refused() -> None:
    refused = Refused({}, Path("x.json"), "it")
    assert (refused.is_due(5.0), refused.wait_s(5.0)) == (False, math.inf)
    refused.note("no")
    assert [refused.is_due(5.0 + step * RETRY_S / 2) for step in range(5)] == [True, False, True, False, True]
    assert refused.wait_s(5.0 + 2.5 * RETRY_S) == RETRY_S / 2
    refused.note("")
    assert refused.wait_s(100.0) == math.inf
