"""What a forced end cut: what HAProxy has sent to another server was not."""

from services.balancer.core.answers import Admin, Server
from services.balancer.core.cuts import PATIENCE_S, Cut, Told, settled
from tests.unit.test_balancer_backends import server

CUT = Cut(pid=7, slot="vm1", name="web-0001", in_flight=3, redispatched=10, at_s=100.0)
OTHER = server(2, Admin.READY)


def left(in_flight: int = 0, redispatched: int = 10) -> Server:
    return server(1, Admin.MAINT, in_flight=in_flight, redispatched=redispatched)


def words(*servers: Server, now_s: float = 100.1, pid: int = 7) -> list[str]:
    told, still = settled([CUT], {pid: servers}, now_s)
    assert bool(told) != bool(still)
    return [one.text for one in told]


def test_nothing_is_told_before_all_have_left() -> None:
    assert words(left(in_flight=1), OTHER) == []
    assert words(left(in_flight=1), OTHER, now_s=100.0 + PATIENCE_S) == ["3 requests in flight were cut off"]


def test_what_went_to_another_one_was_not_cut() -> None:
    assert words(left(), OTHER) == ["3 requests in flight were cut off"]
    assert words(left(redispatched=11), OTHER) == [
        "2 requests in flight were cut off; 1 request without an answer was sent to another domain"
    ]
    assert words(left(redispatched=13), OTHER) == [
        "none was cut: 3 requests without an answer were sent to another domain"
    ]
    assert words(left(redispatched=99), OTHER)[0].startswith("none was cut: 3 ")


def test_where_nobody_else_serves_they_were() -> None:
    for other in (server(2), server(2, Admin.DRAIN), server(2, Admin.READY, status="DOWN")):
        assert words(left(redispatched=13), other) == ["3 requests in flight were cut off"]


def test_a_process_that_is_gone_had_nothing_left_to_send_elsewhere() -> None:
    assert words(left(), OTHER, pid=8) == []
    assert words(left(redispatched=13), OTHER, pid=8, now_s=102.0) == ["3 requests in flight were cut off"]


def test_a_members_cuts_in_several_processes_are_told_as_one() -> None:
    cuts = [CUT, Cut(8, "vm1", "web-0001", 2, 0, 100.0)]
    told, still = settled(cuts, {7: (left(redispatched=12), OTHER), 8: (left(redispatched=0), OTHER)}, 100.1)
    assert (told, still) == ((Told("web-0001", cut=3, moved=2),), ())
