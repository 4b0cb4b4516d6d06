"""What HAProxy says, as values; and what is sent to it."""

import pytest

from common.endpoint import is_address
from services.balancer.core.answers import Admin, Server, Totals, durable, parse_look, refusal, split_answers
from services.balancer.core.backends import (
    Assign,
    Avoid,
    Clear,
    Cut,
    KeepUp,
    Owner,
    SetDrain,
    SetMaint,
    SetReady,
    StartChecks,
    Step,
    StopChecks,
)
from services.balancer.core.commands import commands
from services.balancer.errors import ProxyError

INFO = "Name: HAProxy\nPid: 4711\nUptime_sec: 1"
STAT = (
    "# pxname,svname,qcur,scur,stot,econ,eresp,status,lastchg,check_status,hrsp_5xx,req_tot,last_chk,qtime,rtime,ttime,"
    "mode,idle_conn_cur,safe_conn_cur,used_conn_cur,bout,hrsp_1xx,hrsp_2xx,hrsp_3xx,hrsp_4xx,hrsp_other,wredis\n"
    "web,FRONTEND,,4,9,,,OPEN,,,3,120,,,,,http,,,,900,0,117,0,0,0,\n"
    'web,vm1,1,2,70,0,0,UP,12,* L7OK,1,,"Layer7, ""good""",4,25,30,http,1,0,2,800,1,50,2,3,4,6\n'
    "web,vm2,0,0,5,0,0,MAINT,3,,0,,,0,0,0,http,0,0,0,0,0,5,0,0,0,\n"
    "web,BACKEND,1,3,75,0,0,UP,12,,3,75,,4,25,30,http,,,,900,0,117,0,0,0,\n"
    "db,FRONTEND,,1,40,,,OPEN,,,,,,,,,tcp,,,,70,,,,,,\n"
    "db,vm1,0,1,40,2,1,no check,9,,,,,0,0,900,tcp,0,0,1,70,,,,,,\n"
    "db,BACKEND,0,1,40,2,1,UP,9,,,,,0,0,900,tcp,,,,70,,,,,,\n"
    "other,FRONTEND,,0,0,,,OPEN,,,0,0,,,,,http,,,,0,0,0,0,0,0,"
)
STATE = (
    "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_port "
    "srv_check_state\n3 web 1 vm1 10.0.0.5 2 4 1 1 8080 7\n3 web 2 vm2 127.0.0.1 0 5 0 1 1 10\n"
    "5 db 1 vm1 fd00::5 3 12 1 1 5432 2"
)


def test_look_shows_slots_by_header_name() -> None:
    snapshot = parse_look([INFO, STAT, STATE], ["web", "db", "absent"])
    assert snapshot.pid == 4711
    assert snapshot.servers["web"] == (
        Server(
            name="vm1",
            address="10.0.0.5",
            port=8080,
            admin=Admin.READY,
            status="UP",
            is_weight_right=True,
            in_flight=2,
            queue=1,
            connections=3,
            sessions_total=70,
            response_time_s=0.025,
            check='L7OK Layer7, "good"',
            changed_s=12,
            has_checks=True,
            answers=61,
            redispatched=6,
        ),
        Server(
            name="vm2",
            address="127.0.0.1",
            port=1,
            admin=Admin.MAINT,
            status="MAINT",
            is_weight_right=False,
            in_flight=0,
            queue=0,
            connections=0,
            sessions_total=5,
            response_time_s=0,
            check="",
            changed_s=3,
            has_checks=False,
            answers=5,
        ),
    )
    (db,) = snapshot.servers["db"]
    assert (db.address, db.admin, db.response_time_s, db.answers) == ("fd00::5", Admin.DRAIN, 0.9, 70)
    assert set(snapshot.servers) == {"web", "db"}


def test_totals_count_requests_of_http_and_sessions_of_tcp() -> None:
    totals = parse_look([INFO, STAT, STATE], ["web", "db"]).totals
    assert totals["web"] == Totals(120, 3, 1, 3, 0.004, 0.025, answers=117, clients=4)
    assert totals["db"] == Totals(40, 3, 0, 1, 0.0, 0.9, clients=1)


def test_right_answers_are_counted_of_http_alone() -> None:
    totals = parse_look([INFO, STAT, STATE], ["web", "db"]).totals
    assert (totals["web"].answers, totals["db"].answers) == (117, None)


def test_state_dump_is_what_haproxy_reads_back() -> None:
    assert parse_look([INFO, STAT, STATE], ["web"]).state_dump == STATE + "\n"


def test_counters_do_not_change_what_must_survive_a_restart() -> None:
    before = parse_look([INFO, STAT, STATE], ["web"])
    assert durable(parse_look([INFO, STAT.replace("vm1,1,2,70", "vm1,0,1,90"), STATE], ["web"])) == durable(before)
    assert durable(parse_look([INFO, STAT, STATE.replace("10.0.0.5", "10.0.0.6")], ["web"])) != durable(before)


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (["Name: x", STAT, STATE], "no Pid"),
        ([INFO, "Permission denied", STATE], "statistics begin"),
        ([INFO, STAT, STATE.replace("1\n", "2\n", 1)], "version"),
        ([INFO, STAT.replace("scur", "gone"), STATE], "cannot be read: KeyError 'scur'"),
        ([INFO, STAT.replace("web,vm1,1,2", "web,vm1,1,many"), STATE], "cannot be read: ValueError"),
        ([INFO, STAT.replace("web,vm2", "web,vm9"), STATE], "cannot be read: KeyError"),
    ],
)
def test_half_an_answer_is_refused(answers: list[str], reason: str) -> None:
    with pytest.raises(ProxyError, match=reason):
        parse_look(answers, ["web"])


@pytest.mark.parametrize(
    ("status", "is_up", "is_proven"),
    [
        ("UP", True, True),
        ("UP 1/2", True, False),
        ("DOWN", False, False),
        ("DOWN 1/2", False, False),
        ("DRAIN", True, True),
        ("DRAIN 1/2", True, False),
        ("NOLB", False, False),
        ("NOLB 1/2", False, False),
        ("MAINT", False, False),
        ("MAINT (resolution)", False, False),
        ("no check", True, False),
    ],
)
def test_words_of_haproxy(status: str, is_up: bool, is_proven: bool) -> None:
    text = STAT.replace("0,0,UP,12,*", f"0,0,{status},12,*")
    found = parse_look([INFO, text, STATE], ["web"]).servers["web"][0]
    assert (found.is_up, found.is_proven) == (is_up, is_proven)


@pytest.mark.parametrize(
    ("bits", "has_checks"),
    # 1 running, 2 configured, 4 enabled, 8 paused for maintenance: HAProxy 2.6 and 3.0
    [(6, True), (7, True), (14, True), (2, False), (3, False), (10, False)],
)
def test_a_stopped_check_is_one_bit(bits: int, has_checks: bool) -> None:
    text = STATE.replace("10.0.0.5 2 4 1 1 8080 7", f"10.0.0.5 2 4 1 1 8080 {bits}")
    found = parse_look([INFO, STAT, text], ["web"])
    assert found.servers["web"][0].has_checks is has_checks
    assert found.servers["web"][0].is_proven is has_checks
    assert (durable(found) == durable(parse_look([INFO, STAT, STATE], ["web"]))) is has_checks


@pytest.mark.parametrize(
    ("check", "times_out"),
    [("L4TOUT", True), ("* L7TOUT", True), ("L6TOUT", True), ("L7OK", False), ("L4CON", False), ("L7STS", False)],
)
def test_a_check_that_timed_out_is_told_from_one_that_was_refused(check: str, times_out: bool) -> None:
    found = parse_look([INFO, STAT.replace("* L7OK", check), STATE], ["web"]).servers["web"][0]
    assert found.times_out is times_out


def test_each_answer_ends_with_an_empty_line() -> None:
    assert split_answers("IP changed\n\n\nNo such server.\n\n", 3) == ["IP changed", "", "No such server."]


@pytest.mark.parametrize("text", ["", "one\n\n", "one\n\ntwo", "one\n\ntwo\n\nthree\n\n"])
def test_another_number_of_answers_is_an_error(text: str) -> None:
    with pytest.raises(ProxyError, match="answers to 2 commands"):
        split_answers(text, 2)


def test_anything_but_a_known_success_is_a_refusal() -> None:
    assert refusal("") == refusal("IP changed from 'a' to 'b'") == refusal("nothing changed") == ""
    assert refusal("Unknown command\n  help") == "Unknown command"


ASSIGN = Assign("vm3", Owner("web-0001", "u1", "10.0.0.5", 8080))
ADDRESS, WEIGHT = "set server web/vm3 addr 10.0.0.5 port 8080", "set server web/vm3 weight 100%"
STOPPING, CHECKED = "set server web/vm3 health stopping", "enable health web/vm3"


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (ASSIGN, [ADDRESS, WEIGHT, CHECKED, "set server web/vm3 state drain"]),
        (Assign("vm3", ASSIGN.owner, is_trusted=True), [ADDRESS, WEIGHT, CHECKED, "set server web/vm3 state ready"]),
        (SetReady("vm3"), [WEIGHT, "set server web/vm3 state ready"]),
        (
            SetReady("vm3", is_trusted=True),
            [WEIGHT, "set server web/vm3 health up", "set server web/vm3 state ready"],
        ),
        (SetDrain("vm3"), ["set server web/vm3 state drain"]),
        (SetMaint("vm3"), ["set server web/vm3 state maint"]),
        (Avoid("vm3"), [STOPPING]),
        (StopChecks("vm3"), [STOPPING, "disable health web/vm3"]),
        (StartChecks("vm3", is_fresh=True), [STOPPING, CHECKED]),
        (StartChecks("vm3", is_fresh=False), [CHECKED]),
        (KeepUp("vm3"), ["set server web/vm3 health up"]),
        (Cut("vm3"), ["set server web/vm3 health down", "set server web/vm3 state maint"]),
        (Clear("vm3"), ["set server web/vm3 addr 127.0.0.1 port 1"]),
    ],
)
def test_steps_are_commands(step: Step, expected: list[str]) -> None:
    assert commands("web", step) == expected


@pytest.mark.parametrize("address", ["", "host", "10.0.0.5;quit", "10.0.0.5 port 1", "fe80::1%eth0", "10.0.0.5\n"])
def test_what_is_no_address_becomes_no_command(address: str) -> None:
    assert not is_address(address)
    with pytest.raises(ValueError, match="must be an IP address"):
        commands("web", Assign("vm1", Owner("web-0001", "u1", address, 80)))
