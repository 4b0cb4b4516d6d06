"""What a step says while it takes its time: nobody waits for more than half a minute without a word."""

import sys
from collections.abc import Callable

import pytest

from cli import console
from cli.console import REPEAT_S, Steps, Wait
from tests.waiting import wait_until

Said = Callable[[], str]


class Clock:
    """A clock that a test sets."""

    now_s = 100.0

    def monotonic_s(self) -> float:
        return self.now_s

    epoch_s = monotonic_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(console, "TICK_S", 0.01)
    return Clock()


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Return all that was printed until now."""
    parts: list[str] = []

    def read() -> str:
        parts.append(capsys.readouterr().out)
        return "".join(parts)

    return read


def until(said: Said, text: str) -> None:
    wait_until(lambda: text in said(), text, 20)


def test_one_long_call_is_heard_of_every_half_minute_with_what_is_waited_for_and_until_when(
    clock: Clock, said: Said
) -> None:
    reason = "web: old-0000 booting (10.0.0.1:80/nope answers 404; readiness wants 200)"
    steps = Steps(clock, 7)
    with steps.step("first domains"):
        steps.wait_for(reason, until_s=400.0)
        for waited in (30, 60, 90):
            clock.now_s = 100.0 + waited
            until(said, f"      {reason} ({waited} s; given up at 300 s)\n")
        clock.now_s += REPEAT_S - 1
        steps.wait_for(reason, until_s=400.0)
    assert said().count(reason) == 4, "not sooner"


def test_a_step_that_says_nothing_is_heard_of_too(clock: Clock, said: Said) -> None:
    with Steps(clock, 7).step("libvirt"):
        clock.now_s += REPEAT_S
        until(said, "      at work (30 s)\n")


def test_what_changes_is_said_at_once_and_what_only_counts_is_not(clock: Clock, said: Said) -> None:
    steps = Steps(clock, 1)
    with steps.step("first domains"):
        steps.wait_for("web: booting for 1 s")
        steps.wait_for("web: booting for 2 s")
        steps.wait_for("web: answers 404")
        assert said() == "[1/1] first domains\n      web: booting for 1 s (0 s)\n      web: answers 404 (0 s)\n"


def test_what_is_only_noted_is_said_where_it_lasts_or_becomes_something_else(clock: Clock, said: Said) -> None:
    words = ["the services end"]
    steps = Steps(clock, 1)
    with steps.step("services"):
        steps.note(lambda: words[0])
        assert said() == "[1/1] services\n"
        words[0] = "2 requests in flight"
        until(said, "      2 requests in flight (0 s)\n")


def test_on_a_terminal_the_line_moves_and_stays_one_line(
    clock: Clock, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    steps, long = Steps(clock, 1), "x" * 100
    with steps.step("first domains"):
        steps.wait_for("web: booting", until_s=110.0)
        clock.now_s += 4
        until(said, "\r\033[K[1/1] first domains … web: booting (4 s; given up at 10 s)")
        steps.wait_for(long)
        until(said, f"{long}\n")
        clock.now_s += 1
        until(said, "x… (5 s)")
    assert said().count(long) == 1
    assert all(len(line) <= 60 for line in said().partition(long)[2].replace("\r\033[K", "\n").splitlines())
    assert said().endswith("\r\033[K[1/1] first domains: ok (5.0 s)\n")


def test_a_commands_lines_are_relayed_and_its_silence_is_not_ours(
    clock: Clock, capfd: pytest.CaptureFixture[str]
) -> None:
    program = (
        "import sys\nprint('[1/2] kernel ... ', end='', flush=True)\nprint('2 s')\n"
        "print('told', file=sys.stderr)\nprint('no end', end='')\nsys.exit(3)"
    )
    steps = Steps(clock, 1)
    with steps.step("guest image"):
        assert steps.run([sys.executable, "-c", program]) == 3
    read = capfd.readouterr()
    assert read.out == "[1/1] guest image\n[1/2] kernel ... 2 s\nno end\n      ok (0.0 s)\n"
    assert read.err == "told\n"


def test_what_a_command_has_begun_is_what_is_waited_for(clock: Clock, said: Said) -> None:
    with Wait(clock, "guest image") as wait:
        wait.note("[1/2] kernel ...")
        clock.now_s += REPEAT_S
        until(said, "      [1/2] kernel ... (30 s)\n")
