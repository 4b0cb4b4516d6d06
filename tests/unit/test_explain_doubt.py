"""When `explain --at` says that what would come next is not exact."""

from pathlib import Path

import pytest

from cli.explain import _outlooks
from common.messages import DecisionRecord
from common.recording import Recording
from services.decider.core import basis
from services.decider.core.heard import LOOK_AHEAD_S
from tests.sim.decider_model import EPOCH_S, World, settings
from tests.sim.decider_tape import Tape, write

BEGINS = 800  # what was recorded before is gone; a basis comes at tick 1,201
ENDS = 1500


@pytest.mark.parametrize(
    ("mode", "told_every_ticks", "is_exact"),
    [("observe", 10 * ENDS, True), ("on", 10 * ENDS, False), ("on", (ENDS - BEGINS) // 2, True)],
)
def test_what_a_forecast_had_learned_is_a_reason_for_doubt_where_it_counts_and_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, told_every_ticks: int, is_exact: bool
) -> None:
    monkeypatch.setattr(basis, "LEARNED_EVERY_TICKS", told_every_ticks)
    policies = [{"type": "threshold"}, {"type": "predictive", "mode": mode, "step_s": 5.0}]
    load = World(lambda t: 0.9 + 0.5 * (t % 300 < 100), settings=settings(policies=policies), ready=2)
    tape = Tape(load).run(ENDS)
    write(tmp_path, [frame for frame in tape.frames if frame.at_s > EPOCH_S + BEGINS])
    recording = Recording(tmp_path)
    frame, record = next(
        (frame, body)
        for frame, _, body in recording.messages(kinds=["decision"], newest_first=True)
        if isinstance(body, DecisionRecord) and frame.at_s < EPOCH_S + ENDS - LOOK_AHEAD_S - 1
    )
    config = tmp_path / "autoscaler.toml"
    config.write_text(
        "[groups.web]\nprefix = 'web-'\n[[groups.web.policies]]\ntype = 'threshold'\n"
        f"[[groups.web.policies]]\ntype = 'predictive'\nmode = '{mode}'\nstep_s = 5.0\n"
    )
    outlooks, doubt = _outlooks(recording, config, "web", 1.0, frame, record)
    assert len(outlooks) == 3
    assert (doubt == "") == is_exact, doubt
