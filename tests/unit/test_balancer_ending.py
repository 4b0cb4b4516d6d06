"""What is told while HAProxy ends: a moment's silence is no news, a silence that lasts is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.clock import SystemClock
from services.balancer import ending as command
from services.balancer.core import ending
from services.balancer.core.ending import Ending
from services.balancer.core.workers import Worker
from services.balancer.errors import ProxyError, ProxyLostError

GONE = ProxyLostError("HAProxy at x: Connection refused")
EMPTY = ProxyError("HAProxy's statistics begin ''; '# pxname' is expected")
Answer = int | Exception


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[Ending]]:
    """Return all that is told where HAProxy's worker answers each look so; after the last HAProxy is gone."""

    def run(*answers: Answer, at_most_s: float = 30.0) -> list[Ending]:
        left, said = list(answers), []

        class FakeMaster:
            def __init__(self, *_: Any) -> None: ...

            def workers(self) -> tuple[Worker, ...]:
                if not left:
                    raise GONE
                return (Worker(1, 0, 1.0, is_old=False),)

            def in_flight(self, _: int) -> int:
                answer = left.pop(0)
                if isinstance(answer, Exception):
                    raise answer
                return answer

        monkeypatch.setattr(command, "Master", FakeMaster)
        monkeypatch.setattr(command, "LOOK_S", 0.02)
        monkeypatch.setattr(command, "QUIET_S", 0.06)
        monkeypatch.setattr(command, "TELL_S", 0.1)
        monkeypatch.setattr(command, "SILENT_S", 0.3, raising=False)
        monkeypatch.setattr(command, "LOST_S", 0.2)
        monkeypatch.setattr(ending, "write", lambda _, one: said.append(one))
        ending.write_bound(tmp_path, at_most_s)
        command.wait(tmp_path, SystemClock())
        return said

    return run


@pytest.mark.parametrize("answers", [(), (EMPTY,), (0, EMPTY)], ids=["before", "during", "after-the-first-look"])
def test_haproxy_that_ends_by_itself_is_not_told_as_one_that_may_have_something(
    told: Callable[..., list[Ending]], answers: tuple[Answer, ...]
) -> None:
    assert [one.text for one in told(*answers) if one.text] == []


def test_a_moments_silence_changes_nothing_of_what_was_told(told: Callable[..., list[Ending]]) -> None:
    said = [one.text for one in told(*[2] * 10, EMPTY, *[2] * 10, *[0] * 10)]
    assert set(said) == {"HAProxy takes nothing new; 2 requests in flight may end within 30 s", ""}


def test_a_silence_that_lasts_is_told_and_waited_for(told: Callable[..., list[Ending]]) -> None:
    said = told(*[EMPTY] * 1000, at_most_s=1.0)
    assert [one.is_whole for one in said] == [False] * len(said)
    assert "a process of it does not say what it has in flight" in said[0].text
    assert said[-1].text == "what was still in flight after 1 s is not known, and was cut"
