"""Connections that stay: when members are told to be far apart, and which sessions are too old."""

from services.balancer.core.sessions import Session, ending, overdue, parse_sessions
from services.balancer.core.skew import HOLD_S, Skew, follow, skew_news

APART, EVEN, BETWEEN = {"db-0": 20, "db-1": 0}, {"db-0": 12, "db-1": 10}, {"db-0": 20, "db-1": 8}


def after(skew: Skew, in_flight: dict[str, int], seconds: int, begin_s: int = 0) -> Skew:
    for now_s in range(begin_s, begin_s + seconds + 1):
        skew = follow(skew, in_flight, float(now_s))
    return skew


def test_members_far_apart_are_told_once_it_has_lasted() -> None:
    assert not after(Skew(), APART, int(HOLD_S) - 1).is_told
    told = after(Skew(), APART, int(HOLD_S))
    item = skew_news(Skew(), told, APART)
    assert told.is_told and item is not None
    assert (item.name, item.level) == ("connections-skewed", "warning")
    assert item.text.startswith("connections stay far apart: 20 at db-0, 0 at db-1")
    assert skew_news(told, after(told, APART, 300, 100), APART) is None


def test_what_comes_and_goes_is_no_news() -> None:
    skew = Skew()
    for now_s in range(0, 600, 20):
        skew = follow(skew, APART if now_s % 40 else EVEN, float(now_s))
        assert not skew.is_told


def test_it_is_over_once_they_have_been_together_for_as_long() -> None:
    told = Skew(is_told=True)
    assert after(told, BETWEEN, 600).is_told
    assert after(told, EVEN, int(HOLD_S) - 1).is_told
    over = after(told, EVEN, int(HOLD_S))
    item = skew_news(told, over, EVEN)
    assert not over.is_told and item is not None and item.name == "connections-even"


def test_few_connections_and_a_member_alone_are_never_far_apart() -> None:
    assert not after(Skew(), {"db-0": 9, "db-1": 0}, 600).is_told
    assert not after(Skew(), {"db-0": 99}, 600).is_told
    assert not after(Skew(), BETWEEN, 600).is_told


LINES = """0x564d214a0440: proto=tcpv4 src=127.0.0.1:52788 fe=db be=db srv=vm1 ts=00 epoch=0 age=59m59s calls=3 rate=1
0x564d215bb0a0: proto=tcpv4 src=127.0.0.1:52804 fe=db be=db srv=vm2 ts=00 epoch=0 age=1d1h calls=3 rate=1
0x564d215bbd70: proto=unix_stream src=unix:1 fe=GLOBAL be=<NONE> srv=<none> ts=00 epoch=0 age=0s calls=1 rate=0
0x7fbe70039fb0: proto=tcpv4 src=127.0.0.1:52802 fe=web be=web srv=vm1 ts=00 epoch=0 age=2d calls=3 rate=1
something else
"""


def test_sessions_are_read_from_what_haproxy_shows() -> None:
    found = {session.id: (session.group, session.age_s) for session in parse_sessions(LINES)}
    assert found == {
        "0x564d214a0440": ("db", 3599.0),
        "0x564d215bb0a0": ("db", 90000.0),
        "0x564d215bbd70": ("<NONE>", 0.0),
        "0x7fbe70039fb0": ("web", 172800.0),
    }


def test_a_tenth_of_the_old_sessions_of_a_group_end_the_oldest_first() -> None:
    sessions = (*(Session(f"0x{n}", "db", 100.0 + n) for n in range(40)), Session("0xf", "web", 900.0))
    assert [ending(session) for session in overdue(sessions, "db", 119.0)] == [
        "shutdown session 0x39",
        "shutdown session 0x38",
    ]
    assert [session.id for session in overdue(sessions, "db", 138.0)] == ["0x39"]
    assert overdue(sessions, "db", 139.0) == ()
