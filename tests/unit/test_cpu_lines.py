"""A line for each thread; answers remembered for a while; numbers as words."""

import threading
from collections.abc import Callable

from common.domain import DomainState
from common.virt.constants import LibvirtNames
from common.virt.lines import Lines
from common.virt.remembered import Remembered


def in_thread(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


class Opener:
    def __init__(self) -> None:
        self.opened = 0
        self.closed: list[int] = []

    def open(self) -> int:
        self.opened += 1
        return self.opened


def raw_of(lines: Lines) -> int:
    with lines.use() as line:
        return int(line.raw)


def test_each_thread_has_a_line_of_its_own_and_keeps_it() -> None:
    opener, seen = Opener(), list[int]()
    lines = Lines(opener.open, opener.closed.append, is_shared=False)
    in_thread(lambda: seen.extend([raw_of(lines), raw_of(lines)]))
    in_thread(lambda: seen.append(raw_of(lines)))
    assert (seen, raw_of(lines), lines.first) == ([2, 2, 3], 1, 1)


def test_a_shared_line_serves_all_threads() -> None:
    opener, seen = Opener(), list[int]()
    lines = Lines(opener.open, opener.closed.append, is_shared=True)
    in_thread(lambda: seen.append(raw_of(lines)))
    assert (seen, opener.opened) == ([1], 1)


def test_idle_lines_are_closed_at_once_and_one_in_use_after_its_call() -> None:
    opener = Opener()
    lines = Lines(opener.open, opener.closed.append, is_shared=False)
    in_thread(lambda: raw_of(lines) and None)
    with lines.use(), lines.use():
        lines.close()
        lines.close()
        assert opener.closed == [2]
    assert opener.closed == [2, 1]


def test_nothing_is_opened_after_the_end() -> None:
    opener, seen = Opener(), list[int]()
    lines = Lines(opener.open, opener.closed.append, is_shared=False)
    lines.close()
    in_thread(lambda: seen.append(lines._mine().raw))
    assert (seen, opener.opened) == ([1], 1)


def test_an_answer_is_asked_again_after_its_time_or_when_forgotten() -> None:
    asked: list[float] = []
    memory: Remembered[int] = Remembered(5.0)

    def get(now_s: float, key: str = "a") -> int:
        return memory.get(key, now_s, lambda: asked.append(now_s) or len(asked))

    assert [get(0.0), get(4.9), get(5.0), get(6.0)] == [1, 1, 2, 2]
    memory.forget("a")
    assert get(6.0) == 3
    get(6.0, "b")
    memory.keep({"b"})
    assert [get(6.0, "b"), get(6.0)] == [4, 5]


CONSTANTS = {
    "VIR_DOMAIN_PAUSED": 3,
    "VIR_DOMAIN_PAUSED_IOERROR": 5,
    "VIR_DOMAIN_BLOCKED": 2,
    "VIR_DOMAIN_SHUTDOWN": 4,
    "VIR_DOMAIN_EVENT_STOPPED": 5,
    "VIR_DOMAIN_EVENT_STOPPED_FAILED": 5,
    "VIR_DOMAIN_EVENT_STOPPED_FROM_SNAPSHOT": 6,
    "VIR_DOMAIN_EVENT_CRASHED": 8,
    "VIR_DOMAIN_EVENT_CRASHED_PANICKED": 0,
    "VIR_VERSION": "no number",
}


def test_numbers_become_words() -> None:
    words = LibvirtNames(CONSTANTS)
    assert (words.state(3), words.state(2), words.state(4)) == (
        DomainState.PAUSED,
        DomainState.RUNNING,
        DomainState.STOPPING,
    )
    assert words.reason(3, 5) == "ioerror"
    assert words.event(5, 6) == ("stopped", "from-snapshot")


def test_a_telling_detail_is_the_kind() -> None:
    words = LibvirtNames(CONSTANTS)
    assert (words.event(5, 5), words.event(8, 0)) == (("failed", "failed"), ("panicked", "panicked"))


def test_unknown_numbers_are_unknown() -> None:
    words = LibvirtNames(CONSTANTS)
    assert (words.state(99), words.reason(99, 1), words.event(99, 1)) == (
        DomainState.UNKNOWN,
        "unknown",
        ("unknown", "unknown"),
    )


def test_an_answer_that_changed_while_it_was_asked_for_is_not_kept() -> None:
    memory: Remembered[int] = Remembered(5.0)

    def ask() -> int:
        memory.forget("u0")
        return 1

    assert (memory.get("u0", 0.0, ask), memory.get("u0", 0.1, lambda: 2)) == (1, 2)
