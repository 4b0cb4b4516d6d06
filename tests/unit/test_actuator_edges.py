"""The edges of the actuator: the guard before each step, hosts, store, images, answers to probes."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cli import left_over
from common.config import Config, Group, Image, Network
from common.config_readiness import Readiness, question
from common.domain import DomainFacts, DomainState
from common.errors import AutoscalerError, DomainGoneError, HypervisorBusyError, HypervisorError, HypervisorLostError
from common.http_answer import HttpAnswer
from common.messages import BackendState, DesiredCapacity, Drain, Reply, Request, Traffic
from common.phases import Phase
from common.volume import SeenVolume, Volume
from services.actuator.access import may_touch
from services.actuator.cleanup import own_domains, renamed_domains, stray_domains, why_it_waits
from services.actuator.core.breaker import Breaker
from services.actuator.core.events import event_of, vanished
from services.actuator.core.orders import VERBS
from services.actuator.core.plan import plan
from services.actuator.core.record import Record
from services.actuator.core.seen import Backend, Load, Seen, SeenDomain, SeenHost, Wanted
from services.actuator.core.steps import Define, Destroy, SetPhase, Start, Step, Undefine
from services.actuator.hosts import RETRY_S, VANISHED_S, Hosts
from services.actuator.images import ImageError, Images, written_for
from services.actuator.ledger import Ledger
from services.actuator.orders_desk import PATIENCE_S, OrdersDesk, View
from services.actuator.perform import Outcome, Result, attempt
from services.actuator.prober import Target, judge
from services.actuator.store import Stored, read, write
from services.actuator.worker import Lost, Observation
from tests.faults.proof import Proof

UUID, OTHER = "7b1f2f10-1111-5222-8333-1234567890ab", "7b1f2f10-1111-5222-8333-1234567890ac"
RECORD = Record(
    group="web", uuid="u", host="local", phase=Phase.READY, since_mono_s=1.0, since_s=1.0, boot_id="b", slot=2,
    template="d1",
)  # fmt: skip
ABOUT = {"group": "web", "host": "local", "domain": "web-0000", "uuid": "u", "reason": "because"}
VOLUMES = (f"web-0000.{UUID}.qcow2", f"web-0000.{UUID}.seed", f"web-0001.{OTHER}.qcow2", "debian.qcow2")
OURS = DomainFacts("web-0000", "u", DomainState.RUNNING, "", True, RECORD.to_metadata())


class FakeHost:
    """Shows fixed domains, remembers calls, fails as told."""

    def __init__(self, *domains: DomainFacts, error: HypervisorError | None = None) -> None:
        self.shown = list(domains)
        self.error = error
        self.calls: list[str] = []
        self.removed: list[str] = []

    def domains(self) -> list[DomainFacts]:
        return self.shown

    def facts(self, name: str) -> DomainFacts | None:
        return next((facts for facts in self.shown if facts.name == name), None)

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.error is not None:
            raise self.error

    def define(self, xml: str) -> str:
        self._call("define")
        return "u"

    def start(self, name: str, uuid: str) -> None:
        self._call("start")

    def destroy(self, name: str, uuid: str) -> None:
        self._call("destroy")

    def make_volume(self, volume: Volume) -> None:
        self._call("make_volume")

    def remove_volumes(self, is_to_go: Callable[[str], bool]) -> None:
        self.removed = [name for name in VOLUMES if is_to_go(name)]

    def volumes(self) -> list[SeenVolume]:
        return [SeenVolume(name, f"/disks/{name}") for name in VOLUMES]

    def agent_host_name(self, name: str, timeout_s: float) -> str | None:
        return None

    def undefine(self, name: str, uuid: str) -> None:
        self._call("undefine")

    def set_metadata(self, name: str, uuid: str, metadata: Mapping[str, str]) -> None:
        self._call("set_metadata")


def tried(host: FakeHost, step: Step, xml: str | None = None) -> tuple[Result, str]:
    return attempt(host, step, xml)  # type: ignore[arg-type] # the calls that these steps make


# --- perform -------------------------------------------------------------------------------------------------------

OTHER = DomainFacts("web-0000", "u-other", DomainState.RUNNING, "", True, RECORD.to_metadata())
BARE = DomainFacts("web-0000", "u", DomainState.RUNNING, "", True, {})


@pytest.mark.parametrize("stranger", [OTHER, BARE])
@pytest.mark.parametrize("step", [Start(**ABOUT), Destroy(**ABOUT), Undefine(**ABOUT)])
def test_domain_that_became_another_since_the_plan_is_left_alone(stranger: DomainFacts, step: Step) -> None:
    host = FakeHost(stranger)
    result, error = tried(host, step)
    assert (result, host.calls) == (Result.FAILED, []) and "left alone" in error


def test_nothing_is_defined_over_a_domain_of_that_name() -> None:
    host = FakeHost(OTHER)
    assert tried(host, Define(**ABOUT, record=RECORD, accel="qemu"), "<domain/>")[0] is Result.FAILED
    assert host.calls == []


def test_users_domain_without_a_record_may_be_adopted_and_nothing_else() -> None:
    adopt = SetPhase(**ABOUT, record=RECORD, was=None)
    host = FakeHost(BARE)
    assert tried(host, adopt) == (Result.DONE, "") and host.calls == ["set_metadata"]
    assert tried(FakeHost(BARE), SetPhase(**ABOUT, record=RECORD, was=Phase.READY))[0] is Result.FAILED


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (DomainGoneError("gone"), Result.DONE),
        (HypervisorBusyError("late"), Result.UNKNOWN),
        (HypervisorLostError("lost"), Result.UNKNOWN),
        (HypervisorError("no"), Result.FAILED),
    ],
)
def test_errors_become_results(error: HypervisorError, expected: Result) -> None:
    assert tried(FakeHost(OURS, error=error), Destroy(**ABOUT))[0] is expected


def test_domain_that_is_gone_is_done_for_its_end_and_a_failure_for_its_start() -> None:
    assert tried(FakeHost(), Undefine(**ABOUT)) == (Result.DONE, "")
    assert tried(FakeHost(), Start(**ABOUT))[0] is Result.FAILED


def test_define_without_xml_is_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="needs its XML"):
        tried(FakeHost(), Define(**ABOUT, record=RECORD, accel="qemu"))


# --- hosts ---------------------------------------------------------------------------------------------------------


def hosts() -> Hosts:
    return Hosts(["local"], 0.0, 3.5, {"local": {"web": 3}})


def look(at_s: float, *domains: DomainFacts) -> Observation:
    return Observation("local", at_s, domains, 1 << 30, 2)


def test_step_stays_in_flight_until_a_look_that_began_after_it() -> None:
    known = hosts()
    step = Destroy(**ABOUT)
    known.begun(step, 10.0)
    known.observed(look(10.5, OURS))
    known.finished(Outcome(step, Result.DONE, "", 11.0))
    known.observed(look(10.9, OURS))
    assert known.in_flight() == (step,) and known.is_busy("local", "web-0000")
    known.observed(look(11.0))
    assert known.in_flight() == ()


GONE_WITHOUT_US = [
    # phase, was defined, the step under way, what is told
    (Phase.READY, False, None, ["domain-failed"]),
    (Phase.READY, True, None, ["domain-failed"]),
    (Phase.BOOTING, False, None, ["domain-failed"]),
    (Phase.STOPPING, False, None, ["domain-stopped"]),
    (Phase.FAILED, False, None, ["domain-stopped"]),
    (Phase.GONE, True, None, []),
    (Phase.READY, True, Undefine(**ABOUT), []),
    (Phase.CREATING, True, Define(**ABOUT, record=RECORD, accel="qemu"), []),
]


@pytest.mark.parametrize(("phase", "was_defined", "step", "expected"), GONE_WITHOUT_US)
def test_a_domain_of_ours_that_is_gone_is_told_by_name(
    phase: Phase, was_defined: bool, step: Step | None, expected: list[str]
) -> None:
    known, record = hosts(), replace(RECORD, phase=phase)
    known.observed(look(1.0, replace(OURS, metadata=record.to_metadata(), is_persistent=was_defined)))
    if step is not None:
        known.begun(step, 1.5)
    known.observed(look(2.0))
    known.observed(look(3.0))
    told = [vanished(domain, domain.record) for domain in known.take_vanished() if domain.record]
    assert [(event.name, event.domain) for event in told] == [(name, OURS.name) for name in expected]
    assert all(("it was not defined" in event.text) is not was_defined for event in told)
    assert known.take_vanished() == [], "once"


def test_who_is_gone_is_remembered_for_whoever_takes_the_place_and_then_forgotten() -> None:
    known = hosts()
    known.observed(look(1.0, replace(OURS, metadata=replace(RECORD, phase=Phase.READY).to_metadata())))
    known.observed(look(2.0))
    (gone,) = known.seen(2.0)[0].vanished
    assert gone.record is not None and (gone.record.phase, gone.record.since_mono_s) == (Phase.FAILED, 2.0)
    known.observed(look(2.0 + VANISHED_S))
    assert known.seen(70.0)[0].vanished == ()


def test_a_domain_that_we_have_removed_is_told_by_its_step_alone() -> None:
    known, step = hosts(), Undefine(**ABOUT)
    known.observed(look(1.0, OURS))
    known.begun(step, 2.0)
    known.finished(Outcome(step, Result.DONE, "", 3.0, None, 3.0))
    known.observed(look(4.0))
    assert known.take_vanished() == []


def test_a_step_that_finds_its_domain_gone_tells_nothing_for_the_next_look_does() -> None:
    step = SetPhase(**ABOUT, record=RECORD, was=Phase.READY)
    result, error = tried(FakeHost(), step)
    assert result is Result.FAILED and event_of(step, error, 0.0) is None
    assert event_of(step, "no space", 0.0) is not None


# --- orders of operators -------------------------------------------------------------------------------------------


class Answers:
    """A request that waits, and what it was told."""

    def __init__(self, verb: str, domain: str = "web-0000") -> None:
        self.request = Request(verb=verb, args={"domain": domain})
        self.told: list[Reply] = []

    def reply(self, reply: Reply) -> None:
        self.told.append(reply)


def asked_before_the_first_look(verb: str) -> tuple[OrdersDesk, Answers, list[Step]]:
    pending, begun = Answers(verb), list[Step]()
    desk = OrdersDesk(lambda _wanted, step, _now_s: begun.append(step), lambda _event: None)
    desk.take(pending, 100.0)  # type: ignore[arg-type] # a fake request
    desk.serve([group_view()], 100.1)
    assert pending.told == []
    return desk, pending, begun


def group_view(*domains: SeenDomain, is_ever_seen: bool = False) -> View:
    host = SeenHost("local", domains, is_reachable=is_ever_seen, is_ever_seen=is_ever_seen)
    want = Wanted("web", Group(prefix="web-"), Network(), None)
    see = Seen(1e9, RECORD.boot_id, (host,))
    return View(want, see, plan(want, see, 100.0))


@pytest.mark.parametrize("verb", VERBS)
def test_an_order_before_the_first_look_at_its_host_waits_and_is_then_refused_for_that_reason(verb: str) -> None:
    desk, pending, _ = asked_before_the_first_look(verb)
    desk.serve([group_view()], 100.0 + PATIENCE_S)
    (reply,) = pending.told
    assert reply.status == "refused" and "not known yet" in reply.reason and "try again" in reply.reason
    assert "local has not been looked at since the actuator started" in reply.reason


def test_an_order_before_the_first_look_at_its_host_is_carried_out_after_it() -> None:
    desk, pending, begun = asked_before_the_first_look("replace")
    ours = SeenDomain("local", "web-0000", RECORD.uuid, DomainState.RUNNING, replace(RECORD, phase=Phase.READY))
    desk.serve([group_view(ours, is_ever_seen=True)], 101.0)
    assert pending.told == [] and [step.domain for step in begun] == ["web-0000"]


def test_an_order_for_a_domain_that_is_not_there_is_refused_after_the_first_look() -> None:
    desk, pending, _ = asked_before_the_first_look("drain")
    desk.serve([group_view(is_ever_seen=True)], 101.0)
    assert [reply.reason for reply in pending.told] == ["no domain 'web-0000' is ours; ours are: none"]


# --- more of hosts -------------------------------------------------------------------------------------------------


def test_failed_step_holds_its_domain_a_moment_longer() -> None:
    known = hosts()
    step = Destroy(**ABOUT)
    known.begun(step, 10.0)
    known.finished(Outcome(step, Result.FAILED, "no", 11.0))
    known.observed(look(11.0 + RETRY_S / 2))
    assert known.is_busy("local", "web-0000")
    known.observed(look(11.0 + RETRY_S))
    assert not known.is_busy("local", "web-0000")


def test_step_whose_thread_is_lost_is_forgotten_in_the_end() -> None:
    known = hosts()
    step = Destroy(**ABOUT)
    known.begun(step, 10.0)
    assert known.overdue(100.0) == [] and known.overdue(131.0) == [step] and known.in_flight() == ()


def test_silent_host_becomes_unreachable_and_keeps_what_was_seen() -> None:
    known = hosts()
    assert not known.seen(1.0)[0].is_ever_seen and known.seen(1.0)[0].remembered == {"web": 3}
    known.observed(look(1.0, OURS))
    (host,) = known.seen(2.0)
    assert host.is_reachable and host.unreachable_s == 0.0 and host.remembered == {"web": 1}
    (host,) = known.seen(5.0)
    assert not host.is_reachable and host.unreachable_s == 4.0 and [d.name for d in host.domains] == ["web-0000"]


def test_lost_host_is_unreachable_at_once_and_news_only_once() -> None:
    known = hosts()
    known.observed(look(1.0, OURS))
    assert known.lost(Lost("local", "gone")) and not known.lost(Lost("local", "gone"))
    assert not known.seen(1.1)[0].is_reachable
    assert known.observed(look(2.0)) and known.seen(2.1)[0].is_reachable


@pytest.mark.fault(58)
def test_freed_slot_is_quarantined_for_a_while(row: Proof) -> None:
    known = hosts()
    known.finished(Outcome(Undefine(**ABOUT, slot=4), Result.DONE, "", 10.0))
    assert known.seen(11.0)[0].quarantined_slots == {4} and known.seen(21.0)[0].quarantined_slots == frozenset()
    row.held("by calculation: the address of a domain that is gone is given to nobody for 10 s, if there is another")


# --- ledger --------------------------------------------------------------------------------------------------------


def test_ledger_keeps_the_newest_word_and_the_cause_of_its_generation() -> None:
    ledger = Ledger()
    body = DesiredCapacity(group="web", generation=2, desired=1, minimum=0, maximum=4, decision_id="d2")
    assert ledger.hear_desired(body, "m1", 1.0) == "" and ledger.cause == "d2"
    assert ledger.hear_desired(body.model_copy(update={"decision_id": "d9"}), "m2", 2.0) == ""
    assert (ledger.cause, ledger.desired_heard_s) == ("d2", 2.0)
    assert "older" in ledger.hear_desired(body.model_copy(update={"generation": 1}), "m3", 3.0)
    assert (ledger.desired.generation if ledger.desired else 0, ledger.desired_heard_s) == (2, 2.0)


def test_balancers_word_that_is_too_old_is_no_word() -> None:
    ledger = Ledger()
    backend = BackendState(name="web-0000", uuid="u", slot="vm1", state="ready", is_healthy=True, in_flight=3)
    ledger.hear_drain(Drain(group="web", endpoint="e", is_proxy_alive=True, backends=(backend,)), 10.0)
    assert ledger.backends(13.0, 3.5) == {("web-0000", "u"): Backend("ready", True, 3)}
    assert ledger.backends(14.0, 3.5) is None and Ledger().backends(0.0, 3.5) is None
    kept = backend.model_copy(update={"is_kept": True})
    ledger.hear_drain(Drain(group="web", endpoint="e", is_proxy_alive=True, backends=(kept,)), 12.0)
    assert ledger.backends(13.0, 3.5) == {("web-0000", "u"): Backend("ready", True, 3, is_kept=True)}
    vague = backend.model_copy(update={"state": "draining", "in_flight": 0, "is_in_flight_known": False})
    ledger.hear_drain(Drain(group="web", endpoint="e", is_proxy_alive=True, backends=(vague,)), 14.0)
    (heard,) = (ledger.backends(14.0, 3.5) or {}).values()
    assert not heard.is_done


def test_load_that_is_old_or_not_known_is_unknown_and_never_nothing() -> None:
    ledger = Ledger()
    assert ledger.load(0.0, 3.5) is None
    told = Traffic(group="web", interval_s=1.0, is_known=True, queue=3, in_flight=2, request_rate=5.0, answer_rate=4.0)
    ledger.hear_traffic(told, 10.0)
    assert ledger.load(13.5, 3.5) == Load(queue=3, in_flight=2, request_rate=5.0, answer_rate=4.0)
    assert ledger.load(13.6, 3.5) is None
    for unknown in ({"is_known": False}, {"queue": None}, {"in_flight": None}):
        ledger.hear_traffic(told.model_copy(update=unknown), 10.0)
        assert ledger.load(10.0, 3.5) is None


# --- store ---------------------------------------------------------------------------------------------------------


def test_store_survives_a_restart(tmp_path: Path) -> None:
    breaker = Breaker(3, 1, 160.0, 100.0, ("u-0", "u-1"), 2, 90.0, 1)
    stored = Stored({"web@local": breaker}, {"web": (3.0, 4.0)}, {"local": {"web": 2}})
    write(tmp_path / "deep" / "actuator.json", stored, "b")
    assert read(tmp_path / "deep" / "actuator.json", 120.0, "b") == stored


@pytest.mark.parametrize("text", ["", "{", "[]", '{"boot_id": "b"}', '{"boot_id": "b", "breakers": 3}', "\x00"])
def test_damaged_store_counts_as_nothing_known(tmp_path: Path, text: str) -> None:
    path = tmp_path / "actuator.json"
    assert read(path, 1.0, "b") == Stored()
    path.write_text(text)
    assert read(path, 1.0, "b") == Stored()


def test_store_of_an_older_release_is_read_and_an_older_release_reads_ours(tmp_path: Path) -> None:
    path = tmp_path / "actuator.json"
    older = {"failures": 3, "openings": 1, "open_until_s": 160.0, "last_failure_s": 100.0}
    write(path, Stored({"web@local": Breaker(3, 1, 160.0, 100.0, ("u",), 2, 90.0, 1)}), "b")
    values = json.loads(path.read_text())
    assert older.items() <= values["breakers"]["web@local"].items()
    values["breakers"]["web@local"] = older
    path.write_text(json.dumps(values))
    assert read(path, 120.0, "b").breakers == {"web@local": Breaker(3, 1, 160.0, 100.0)}


def test_store_that_cannot_be_written_says_why_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    trouble = write(tmp_path / "file" / "actuator.json", Stored(), "b")
    assert trouble == f"{tmp_path}/file/actuator.json cannot be written: Not a directory"
    assert (tmp_path / "file").read_text() == ""


# --- images --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_xml_that_others_may_change_is_refused(tmp_path: Path, mode: int) -> None:
    extra = tmp_path / "extra.xml"
    extra.write_text("<domain><title>shop</title></domain>")
    extra.chmod(0o644)
    asked = Image(disk="/srv/base.qcow2", xml=str(extra))
    assert written_for(asked, Network()).extra is not None
    extra.chmod(mode)
    why = rf"others may change {extra} \(mode {mode:04o}\): chmod go-w {extra}"
    with pytest.raises(ImageError, match=f"xml: {extra} cannot be used: {why}"):
        written_for(asked, Network())


def image(directory: Path, content: bytes = b"kernel", **changes: object) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "vmlinuz").write_bytes(content)
    (directory / "initramfs.img").write_bytes(b"initramfs")
    manifest: dict[str, object] = {
        "kernel": {"file": "vmlinuz", "sha256": hashlib.sha256(content).hexdigest()},
        "initramfs": {"file": "initramfs.img", "sha256": hashlib.sha256(b"initramfs").hexdigest()},
        "kernel_arguments": "quiet",
    }
    (directory / "manifest.json").write_text(json.dumps(manifest | changes))
    return directory


def test_image_is_copied_and_checked(tmp_path: Path) -> None:
    image(tmp_path / "images")
    template = Images(tmp_path).template("")
    assert Path(template.kernel).read_bytes() == b"kernel" and template.arguments == "quiet"
    assert Path(template.kernel).is_relative_to(tmp_path / "actuator")


def test_missing_image_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="make image"):
        Images(tmp_path).template("")


@pytest.mark.parametrize(
    "change",
    [{"kernel": {"file": "vmlinuz", "sha256": "0" * 64}}, {"kernel": {"file": "../x", "sha256": ""}}, {"kernel": 3}],
)
def test_image_that_does_not_match_its_manifest_is_not_used(tmp_path: Path, change: dict[str, object]) -> None:
    image(tmp_path / "images", **change)
    with pytest.raises(ImageError, match="not usable"):
        Images(tmp_path).template("")


def test_new_image_is_a_new_copy_and_the_old_one_goes_when_unused(tmp_path: Path) -> None:
    images = Images(tmp_path)
    image(tmp_path / "images")
    old = images.template("")
    image(tmp_path / "images", content=b"a newer kernel", extra="x")
    new = images.template("")
    assert old.digest != new.digest and Path(old.kernel).read_bytes() == b"kernel"
    images.sweep({old.digest})
    assert Path(old.kernel).exists()
    images.sweep(set())
    assert not Path(old.kernel).exists() and Path(new.kernel).exists()


# --- prober --------------------------------------------------------------------------------------------------------

TARGET = Target("web-0000", "127.0.0.1", 1)


@pytest.mark.parametrize(
    ("status", "served_by", "body", "is_right"),
    [
        (200, "web-0000", b"", True),
        (200, None, b"web-0000\n", True),
        (200, "web-0001", b"web-0000", False),
        (200, None, b"hello", False),
        (200, None, b"\xff\xfe", False),
        (503, "web-0000", b"web-0000", False),
        (301, "web-0000", b"", False),
    ],
)
def test_only_a_200_from_the_right_one_is_a_right_answer(
    status: int, served_by: str | None, body: bytes, is_right: bool
) -> None:
    assert judge(TARGET, HttpAnswer(status, served_by, None, body)).is_right is is_right


def test_any_200_counts_where_identity_is_not_asked_for() -> None:
    anyone = Target("web-0000", "127.0.0.1", 1, is_identity_checked=False)
    found = [judge(anyone, HttpAnswer(status, "somebody", None, b"")).is_right for status in (200, 500)]
    assert found == [True, False]


@pytest.mark.parametrize(("status", "is_right"), [(200, False), (204, True), (301, True), (399, True), (400, False)])
def test_the_file_says_which_statuses_are_right(status: int, is_right: bool) -> None:
    asked = question("web", Readiness(expect=(204, "3xx")))
    assert judge(replace(TARGET, asked=asked), HttpAnswer(status, "web-0000", None, b"")).is_right is is_right


# --- access, cleanup -----------------------------------------------------------------------------------------------

CONFIG = Config.model_validate({"groups": {"web": {"prefix": "web-"}}})


@pytest.mark.parametrize(
    ("name", "expected"),
    [("web-0000", True), ("web-1", False), ("web-00000", False), ("xweb-0000", False), ("web-", False)],
)
def test_only_names_under_a_prefix_may_be_touched(name: str, expected: bool) -> None:
    assert may_touch(list(CONFIG.groups.values()))(name) is expected


def test_cleanup_takes_only_domains_that_carry_their_own_record() -> None:
    renamed = DomainFacts("other-0000", "u", DomainState.RUNNING, "", True, RECORD.to_metadata())
    foreign = DomainFacts("web-0003", "u", DomainState.RUNNING, "", True, RECORD.to_metadata() | {"group": "api"})
    assert [facts for facts, _ in own_domains(CONFIG, [OURS, OTHER, BARE, renamed, foreign])] == [OURS]


SHUTOFF = DomainState.SHUTOFF


@pytest.mark.parametrize(
    ("state", "reason", "has_saved_state", "changes", "expected"),
    [
        (SHUTOFF, "saved", True, {}, True),
        (SHUTOFF, "saved", False, {}, True),  # virsh save FILE
        (SHUTOFF, "unknown", True, {}, True),  # after libvirt's daemon was started anew
        (SHUTOFF, "shutdown", False, {}, False),
        (DomainState.RUNNING, "booted", False, {}, False),
        (SHUTOFF, "saved", True, {"tier": "saved", "phase": Phase.STANDBY}, False),
        (SHUTOFF, "saved", True, {"tier": "saved", "is_woken": True, "phase": Phase.READY}, True),
        (SHUTOFF, "saved", True, {"tier": "saved", "phase": Phase.BOOTING}, False),
        (SHUTOFF, "saved", True, {"phase": Phase.CREATING}, False),
        (DomainState.PAUSED, "user", False, {}, True),
        (DomainState.PAUSED, "snapshot", False, {"phase": Phase.SUSPENDED}, True),
        (DomainState.PAUSED, "user", False, {"tier": "paused", "phase": Phase.STANDBY}, False),
        (DomainState.PAUSED, "user", False, {"tier": "paused", "is_woken": True, "phase": Phase.READY}, True),
        (DomainState.PAUSED, "ioerror", False, {}, False),
        (DomainState.PAUSED, "crashed", False, {}, False),
    ],
)
def test_a_memory_that_we_saved_ourselves_is_nobodys_loss(
    state: DomainState, reason: str, has_saved_state: bool, changes: dict[str, Any], expected: bool
) -> None:
    facts = DomainFacts("web-0000", "u", state, reason, True, {}, has_saved_state)
    assert bool(why_it_waits(facts, replace(RECORD, **changes))) is expected


STRAY = DomainFacts(
    "api-0000", "s", DomainState.RUNNING, "", True, RECORD.to_metadata() | {"group": "api", "uuid": "s"}
)
STATE = "/var/lib/libvirt-autoscaler"


def made(network: str = "autoscaler", kernel: str = f"{STATE}/actuator/boot/d1/vmlinuz", disk: str = "") -> str:
    source = f"<disk><source file='{disk}'/></disk>" if disk else ""
    nic = f"<interface><source network='{network}'/></interface>"
    return f"<domain><os><kernel>{kernel}</kernel></os><devices>{nic}{source}</devices></domain>"


@pytest.mark.parametrize(
    ("xml", "is_ours"),
    [
        (made(), True),
        (made(kernel="", disk=f"{STATE}/disks/x.qcow2"), True),
        (made(network="other"), False),
        (made(kernel="/srv/other/actuator/boot/d1/vmlinuz"), False),
        (made(kernel=f"{STATE}-2/actuator/boot/d1/vmlinuz"), False),
        ("<domain/>", False),
    ],
)
def test_cleanup_takes_a_stray_only_where_network_and_files_are_ours(xml: str, is_ours: bool) -> None:
    assert [facts for facts, _ in stray_domains(CONFIG, [OURS, STRAY], lambda _: xml)] == ([STRAY] if is_ours else [])


@pytest.mark.parametrize("changed", [{"template": ""}, {"uuid": "u"}, {"phase": "no phase"}])
def test_cleanup_leaves_what_is_not_certainly_made_by_us(changed: dict[str, str]) -> None:
    facts = DomainFacts("api-0000", "s", DomainState.RUNNING, "", True, dict(STRAY.metadata) | changed)
    assert stray_domains(CONFIG, [facts, OTHER, BARE], lambda _: made()) == []


def renamed(found: list[DomainFacts], xml: str = made(), **groups: str) -> list[tuple[str, str, str]]:
    config = Config.model_validate(
        {"groups": {n: {"prefix": p, "endpoint": f"*:80{i}0"} for i, (n, p) in enumerate(groups.items())}}
    )
    return [(f.name, r.group, name) for f, r, name in renamed_domains(config, found, lambda _: xml)]


def test_a_group_that_goes_by_another_name_is_known_by_the_records_of_its_domains() -> None:
    assert renamed([STRAY, OTHER, BARE], shop="api-") == [("api-0000", "api", "shop")]
    assert renamed([STRAY], api="api-") == []
    assert renamed([STRAY], shop="shop-") == []  # another prefix: its own domains are strays, and kept apart
    assert renamed([STRAY], api="web-", web="api-") == [("api-0000", "api", "web")]


def test_a_users_domain_that_a_group_took_in_counts_and_what_another_installation_made_does_not() -> None:
    users = DomainFacts("api-0000", "s", DomainState.RUNNING, "", True, dict(STRAY.metadata) | {"template": ""})
    assert renamed([users], "<domain/>", shop="api-") == [("api-0000", "api", "shop")]
    assert renamed([STRAY], made(network="other"), shop="api-") == []


def test_up_refuses_a_renamed_group_in_one_sentence_and_asks_no_further_where_a_host_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Host:
        definition = staticmethod(lambda _name: made())
        close = staticmethod(lambda: None)

        @staticmethod
        def domains() -> list[DomainFacts]:
            if is_silent:
                raise HypervisorError("no answer")
            return [STRAY, DomainFacts("api-0001", "s", DomainState.SHUTOFF, "", True, STRAY.metadata)]

    monkeypatch.setattr(left_over.Connection, "open", lambda *_args, **_kwargs: Host)
    config = Config.model_validate({"groups": {"shop": {"prefix": "api-"}}})
    is_silent = False
    text = (
        "groups.shop has the prefix api- of groups.api: a group is not renamed while it has domains, for they carry "
        "its name; keep the name api, or take another prefix, or first: make down with the old file; of the old name "
        "there is api-0000 and 1 more"
    )
    with pytest.raises(AutoscalerError, match=re.escape(text)):
        left_over.refuse_renamed(config)
    is_silent = True
    left_over.refuse_renamed(config)
