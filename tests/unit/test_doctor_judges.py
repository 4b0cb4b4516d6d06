"""Each judge of ``autoscaler doctor``: quiet about what is well, and clear about what is not."""

import json
import re
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from cli.doctor import judge_guests, judge_host, judge_machine, judge_storage
from cli.doctor.facts import (
    AccelFacts,
    ClockFacts,
    HaproxyFacts,
    ImageFacts,
    LibvirtFacts,
    LimitFacts,
    MemberFacts,
    PortFacts,
    Proof,
    ServiceFacts,
    SocketFacts,
    SpaceFacts,
    StopFacts,
    StrayFacts,
)
from cli.doctor.finding import Finding, Level, error, exit_code, note, ok, skipped, warning, worst
from cli.doctor.page import page, summary, values
from cli.doctor.run import _checked
from common.acceleration import Accel
from common.config import Group
from common.errors import HypervisorError
from common.messages import ServiceStatus, Unready

GIB = 1024**3
GROUP = Group(prefix="web-")
WELL = (Level.OK, Level.SKIPPED, Level.NOTE)


def levels(findings: list[Finding]) -> dict[str, Level]:
    """Return the worst level of each check."""
    return {name: worst(f for f in findings if f.check == name) for name in {f.check for f in findings}}


REMOVES = re.compile("destroy|undefine")


def must_mend(finding: Finding, level: Level, *words: str) -> None:
    """Check that a finding is as bad as this, and says what, why and how to mend it."""
    assert finding.level is level
    assert finding.why and finding.mend
    for word in words:
        assert word in f"{finding.about} {finding.what} {finding.why} {finding.mend}"


# --- libvirt -------------------------------------------------------------------------------------------------------

LIBVIRT = LibvirtFacts(
    uri="qemu:///system",
    is_local=True,
    user="ann",
    is_root=False,
    groups=("ann", "libvirt"),
    sockets=(SocketFacts("/s-ro", True, True), SocketFacts("/s", True, True)),
    read_error="",
    write_error="",
    release="libvirt 9.0.0",
)


def test_libvirt_that_answers_is_well() -> None:
    assert [f.level for f in judge_host.judge_libvirt(LIBVIRT, "local")] == [Level.OK, Level.OK]


def test_libvirt_that_does_not_run_is_started() -> None:
    sockets = (SocketFacts("/s-ro", False, False),)
    (found,) = judge_host.judge_libvirt(replace(LIBVIRT, sockets=sockets, read_error="no", write_error="no"), "local")
    must_mend(found, Level.ERROR, "/s-ro", "systemctl enable --now libvirtd")


@pytest.mark.parametrize(
    "changes",
    [
        {"sockets": (SocketFacts("/s-ro", False, False),), "read_error": "no", "write_error": "no"},
        {"read_error": "refused", "write_error": "refused"},  # the sockets are there, and nobody behind them
        {"write_error": "no"},
    ],
)
def test_without_systemd_no_mend_of_libvirt_names_it(changes: dict[str, Any]) -> None:
    found = judge_host.judge_libvirt(replace(LIBVIRT, has_systemd=False, **changes), "local")
    must_mend(found[-1], Level.ERROR, "make up")
    assert "systemctl" not in found[-1].mend
    found = judge_host.judge_libvirt(replace(LIBVIRT, **changes), "local")
    must_mend(found[-1], Level.ERROR, "systemctl")


def test_a_user_outside_the_group_is_told_to_join_it() -> None:
    facts = replace(LIBVIRT, groups=("ann",), write_error="denied")
    found = judge_host.judge_libvirt(facts, "local")
    assert found[0].level is Level.OK
    must_mend(found[1], Level.ERROR, "ann", "usermod -aG libvirt ann")


def test_a_member_of_the_group_who_is_refused_is_told_about_polkit() -> None:
    must_mend(judge_host.judge_libvirt(replace(LIBVIRT, write_error="no"), "h")[1], Level.ERROR, "auth_unix_rw")


def test_the_units_account_must_be_in_the_group_too() -> None:
    assert (
        levels(judge_host.judge_libvirt(replace(LIBVIRT, unit_groups=("libvirt",)), "h"))["libvirt-rights"] is Level.OK
    )
    found = judge_host.judge_libvirt(replace(LIBVIRT, unit_groups=("libvirt-autoscaler",)), "h")
    must_mend(found[-1], Level.ERROR, "usermod -aG libvirt libvirt-autoscaler-actuator")


def test_no_right_to_the_reading_socket_is_a_question_of_rights() -> None:
    sockets = (SocketFacts("/s-ro", True, False),)
    facts = replace(LIBVIRT, groups=("ann",), sockets=sockets, read_error="denied", write_error="denied")
    (found,) = judge_host.judge_libvirt(facts, "local")
    must_mend(found, Level.ERROR, "usermod")
    assert found.check == "libvirt-rights"


def test_a_remote_host_that_does_not_answer_is_named() -> None:
    facts = replace(LIBVIRT, uri="qemu+ssh://b/system", is_local=False, sockets=(), read_error="timed out")
    (found,) = judge_host.judge_libvirt(facts, "b")
    must_mend(found, Level.ERROR, "qemu+ssh://b/system", "timed out", "on that host: systemctl status libvirtd")


# --- acceleration --------------------------------------------------------------------------------------------------

KVM, TCG = Accel("kvm", "a probe guest ran under KVM in 1.0 s"), Accel("qemu", "the probe guest hung for 10 s")


@pytest.mark.parametrize(
    ("facts", "level", "word"),
    [
        (AccelFacts("tcg", True, True, None), Level.OK, "not wanted"),
        (AccelFacts("auto", True, True, KVM), Level.OK, "ran under KVM"),
        (AccelFacts("auto", True, True, None), Level.NOTE, "--prove"),
        (AccelFacts("auto", True, True, TCG), Level.NOTE, "hung"),
        (AccelFacts("auto", False, False, None), Level.NOTE, "no /dev/kvm"),
        (AccelFacts("auto", False, True, None), Level.NOTE, "libvirt offers no KVM"),
        (AccelFacts("kvm", True, True, TCG), Level.ERROR, "accel = 'kvm'"),
        (AccelFacts("kvm", False, False, None), Level.ERROR, "no /dev/kvm"),
    ],
)
def test_kvm_counts_only_when_it_is_proven(facts: AccelFacts, level: Level, word: str) -> None:
    found = judge_host.judge_acceleration(facts, "local")
    assert found.level is level
    assert word in f"{found.what} {found.why} {found.mend}"


def test_a_device_that_qemus_group_may_not_open_is_told_whatever_is_wanted() -> None:
    closed = "the group kvm (993) may not open /dev/kvm: it belongs to group 109, 660"
    found = judge_host.judge_kvm_device(AccelFacts("tcg", True, True, None, closed), "local")
    must_mend(found, Level.WARNING, "it belongs to group 109", "chgrp kvm /dev/kvm")
    for has_device in (True, False):
        assert judge_host.judge_kvm_device(AccelFacts("auto", True, has_device, None), "local").level is Level.OK


# --- CPUs and memory -----------------------------------------------------------------------------------------------

LIMITS = LimitFacts(cpus=4, total_memory_bytes=8 * GIB, free_memory_bytes=6 * GIB, owned={}, open_files=20000)


def test_a_host_with_enough_of_both_is_well() -> None:
    assert judge_host.judge_cpus({"web": GROUP}, LIMITS, "local").level is Level.OK
    assert judge_host.judge_memory({"web": GROUP}, LIMITS, "local").level is Level.OK


def test_more_allotted_cpus_than_the_host_has_is_a_warning() -> None:
    found = judge_host.judge_cpus({"web": GROUP}, replace(LIMITS, cpus=3), "local")
    must_mend(found, Level.WARNING, "4 of 3 CPUs", "cpu_quota")


def test_domains_on_several_hosts_are_shared_out() -> None:
    group = GROUP.model_copy(update={"hosts": ("local", "b")})
    assert judge_host.judge_cpus({"web": group}, replace(LIMITS, cpus=2), "b").level is Level.OK


def test_memory_for_the_lower_bound_only_is_a_warning_and_for_less_an_error() -> None:
    group = Group.model_validate({"prefix": "w-", "min": 2, "max": 4, "image": {"memory_mib": 1024}})
    tight, none = replace(LIMITS, free_memory_bytes=3 * GIB), replace(LIMITS, free_memory_bytes=GIB)
    must_mend(judge_host.judge_memory({"w": group}, tight, "local"), Level.WARNING, "memory_mib")
    must_mend(judge_host.judge_memory({"w": group}, none, "local"), Level.ERROR, "not even the lower bounds")


def test_what_our_domains_use_already_counts_as_available() -> None:
    group = Group.model_validate({"prefix": "w-", "min": 2, "max": 4, "surge": 0, "image": {"memory_mib": 1024}})
    full = replace(LIMITS, free_memory_bytes=GIB, owned={"w": 4})
    assert judge_host.judge_memory({"w": group}, full, "local").level is Level.OK


@pytest.mark.parametrize(("warm", "domains"), [({"paused": 2}, 6), ({"saved": 2}, 4), ({"sizing": "auto"}, 7)])
def test_domains_that_stand_by_in_memory_count_and_those_on_disk_do_not(warm: dict[str, Any], domains: int) -> None:
    image = {"memory_mib": 1024 - 128}  # and what QEMU takes beside it: the same as where a domain is placed
    keys = {"prefix": "w-", "max": 4, "surge": 0, "image": image, "warm": {"memory_mib": 9999, **warm}}
    found = judge_host.judge_memory({"w": Group.model_validate(keys)}, LIMITS, "local")
    assert f"{domains}.0 GiB for all domains" in found.what


def test_a_host_without_template_groups_is_not_measured() -> None:
    group = Group(prefix="w-", kind="existing")
    assert judge_host.judge_cpus({"w": group}, LIMITS, "local").level is Level.SKIPPED
    assert judge_host.judge_memory({"w": group}, LIMITS, "local").level is Level.SKIPPED


# --- ports, HAProxy, files, clock, services ---------------------------------------------------------------------------

PORT = PortFacts("groups.web.endpoint", "127.0.0.1:8000", "haproxy", "", False)


@pytest.mark.parametrize(
    ("port", "level", "word"),
    [
        (PORT, Level.OK, "free"),
        (replace(PORT, holder="haproxy (process 7)", is_ours=True), Level.OK, "as it should be"),
        (replace(PORT, holder="nginx (process 7)"), Level.ERROR, "nginx (process 7)"),
        (replace(PORT, bind_error="Cannot assign requested address"), Level.ERROR, "Cannot assign"),
        (replace(PORT, is_expected=True, is_running=True), Level.ERROR, "127.0.0.1:8000, although HAProxy runs"),
        (replace(PORT, is_expected=True), Level.ERROR, "127.0.0.1:8000: HAProxy does not run, or has not come up"),
    ],
)
def test_a_port_is_free_or_ours(port: PortFacts, level: Level, word: str) -> None:
    (found,) = judge_machine.judge_ports([port])
    assert found.level is level
    assert word in f"{found.what} {found.mend}"


HAPROXY = HaproxyFacts("/usr/sbin/haproxy", "HAProxy version 2.6.12-1+deb12u4\nFeature list : +PROMEX", "")


def test_haproxy_as_debian_ships_it_is_well() -> None:
    found = judge_machine.judge_haproxy(HAPROXY, wants_metrics=True)
    assert levels(found) == {"haproxy": Level.OK, "haproxy-config": Level.OK, "haproxy-metrics": Level.OK}


@pytest.mark.parametrize(
    ("changes", "check", "level"),
    [
        ({"path": None}, "haproxy", Level.ERROR),
        ({"version_text": "HAProxy version 2.2.9 +PROMEX"}, "haproxy", Level.ERROR),
        ({"version_text": "HAProxy version 2.4.1 +PROMEX"}, "haproxy", Level.WARNING),
        ({"version_text": "what?"}, "haproxy", Level.WARNING),
        ({"version_text": "HAProxy version 2.8.0"}, "haproxy-metrics", Level.WARNING),
        ({"refusal": "[ALERT] unknown keyword 'x'"}, "haproxy-config", Level.ERROR),
    ],
)
def test_what_is_wrong_with_haproxy_is_said(changes: dict[str, Any], check: str, level: Level) -> None:
    found = judge_machine.judge_haproxy(replace(HAPROXY, **changes), wants_metrics=True)
    bad = [finding for finding in found if finding.level not in WELL]
    assert [finding.check for finding in bad] == [check]
    must_mend(bad[0], level)


def test_a_receiver_that_cannot_be_told_is_a_warning() -> None:
    assert judge_machine.judge_receivers([], 0).level is Level.SKIPPED
    assert judge_machine.judge_receivers([], 2).level is Level.OK
    must_mend(judge_machine.judge_receivers(["notifications.0: no file"], 2), Level.WARNING, "notifications.0")


def test_too_few_open_files_say_how_many_connections_are_left() -> None:
    assert judge_machine.judge_files_open(4000, 20000).level is Level.OK
    must_mend(judge_machine.judge_files_open(4000, 1024), Level.WARNING, "accepts 362 connections", "8300")


CLOCK = ClockFacts(
    epoch_s=1_800_000_000.0, newest_file_s=1_799_999_999.0, newest_file="/s/x.json", is_synchronised=True
)


@pytest.mark.parametrize(
    ("changes", "level", "word"),
    [
        ({}, Level.OK, "time server"),
        ({"is_synchronised": None}, Level.OK, "2027"),
        ({"is_synchronised": False}, Level.WARNING, "no time server"),
        ({"newest_file_s": 1_800_003_600.0}, Level.ERROR, "3600 s later"),
        ({"epoch_s": 1000.0, "newest_file_s": 0.0}, Level.ERROR, "1970"),
    ],
)
def test_a_wall_clock_is_sane_and_kept_right(changes: dict[str, Any], level: Level, word: str) -> None:
    found = judge_machine.judge_clock(replace(CLOCK, **changes))
    assert found.level is level
    assert word in f"{found.what} {found.why}"


def test_a_clock_is_kept_right_by_systemd_only_where_there_is_systemd() -> None:
    off = replace(CLOCK, is_synchronised=False)
    assert "timedatectl" in judge_machine.judge_clock(off).mend
    assert judge_machine.judge_clock(replace(off, has_systemd=False)).mend == "apt-get install chrony"


def status(name: str, digest: str = "abc") -> ServiceStatus:
    return ServiceStatus(name=name, pid=1, started_at_s=0, release="0", config_digest=digest)


ALL = {name: status(name) for name in ("monitor", "decider")}
SERVICES = ServiceFacts(heard=ALL, expected=("monitor", "decider"), digest="abc", is_supervised=True, owned_running=1)


def test_services_that_run_with_the_present_file_are_well() -> None:
    assert levels(judge_machine.judge_services(SERVICES)) == {"services": Level.OK, "services-config": Level.OK}


def test_a_silent_service_is_an_error_and_an_older_file_a_warning() -> None:
    facts = replace(SERVICES, heard={"monitor": status("monitor", "old")})
    silent, old = judge_machine.judge_services(facts)
    must_mend(silent, Level.ERROR, "decider", "make up")
    must_mend(old, Level.WARNING, "monitor", "make up")


def test_nothing_running_is_no_fault_unless_our_domains_do() -> None:
    nothing = replace(SERVICES, heard={}, is_supervised=False, owned_running=0)
    assert judge_machine.judge_services(nothing)[0].level is Level.SKIPPED
    must_mend(judge_machine.judge_services(replace(nothing, owned_running=2))[0], Level.WARNING, "make up", "make down")


def test_what_runs_and_does_not_answer_is_an_error_and_what_may_not_be_seen_is_skipped() -> None:
    silent = replace(SERVICES, heard={}, is_supervised=False, silence="nobody answered at A (from F), but this runs: x")
    (found,) = judge_machine.judge_services(silent)
    must_mend(found, Level.ERROR, "nobody answered at A (from F)", "--config FILE")
    (closed,) = judge_machine.judge_services(replace(silent, is_closed=True))
    assert (closed.level, closed.what) == (Level.SKIPPED, silent.silence)


# --- storage and images ---------------------------------------------------------------------------------------------

SPACE = SpaceFacts("/var/lib/x", "/", free_bytes=10 * GIB, free_files=1_000_000, is_writable=True)


@pytest.mark.parametrize(
    ("changes", "level", "word"),
    [
        ({}, Level.OK, "10.0 GiB"),
        ({"free_files": None}, Level.OK, ""),
        ({"free_bytes": GIB // 2}, Level.ERROR, "needed at once"),
        ({"free_bytes": 2 * GIB}, Level.WARNING, "may grow"),
        ({"free_files": 3}, Level.ERROR, "3 free inodes"),
        ({"is_writable": False}, Level.ERROR, "cannot be written"),
    ],
)
def test_room_is_judged_by_what_is_written_now_and_later(changes: dict[str, Any], level: Level, word: str) -> None:
    found = judge_storage.judge_space("state_dir", replace(SPACE, **changes), GIB, 2 * GIB)
    assert found.level is level
    assert word in found.what


def test_a_demo_image_that_must_be_built_needs_more_room() -> None:
    whole = ImageFacts("/i", "demo", exists=True, size_bytes=50_000_000)
    missing = ImageFacts("/i", "demo", exists=False)
    both = {"a": whole, "b": whole}
    assert judge_storage.needed_now_bytes(both) == judge_storage.START_BYTES + 50_000_000
    assert judge_storage.needed_now_bytes({"a": missing}) == judge_storage.START_BYTES + judge_storage.BUILD_BYTES


def test_what_may_still_be_written_counts_recording_logs_and_saved_memory() -> None:
    assert judge_storage.needed_later_bytes({"w": GROUP}, {}, 1000, 2) == 1000 + 2 * judge_storage.LOG_BYTES


@pytest.mark.parametrize(
    ("keys", "disks", "memories"),
    [
        ({"image": {"disk": "/d", "memory_mib": 1024}}, 5 * 3, 0),  # as large as the image
        ({"image": {"disk": "/d", "memory_mib": 1024, "disk_gib": 8}}, 5 * 8, 0),
        ({"image": {"disk": "/d", "memory_mib": 1024}, "hosts": ["a", "b"]}, 3 * 3, 0),
        ({"image": {"disk": "/d", "memory_mib": 1024}, "warm": {"saved": 2}}, 7 * 3, 2),
        ({"image": {"disk": "/d", "memory_mib": 1024}, "warm": {"start": "clone"}}, 6 * 3, 1),
        ({"image": {"disk": "/d", "memory_mib": 1024}, "warm": {"sizing": "auto", "memory_mib": 1152}}, 8 * 3, 2),
    ],
)
def test_overlays_may_grow_to_their_whole_size_and_kept_memory_counts(
    keys: dict[str, Any], disks: int, memories: int
) -> None:
    group = Group.model_validate({"prefix": "w-", "max": 4, "surge": 1, **keys})
    image = replace(DISK, capacity_bytes=3 * GIB)
    assert judge_storage.needed_later_bytes({"w": group}, {"w": image}, 0, 0) == (disks + memories) * GIB


DISK = ImageFacts("/d.raw", "disk", exists=True, size_bytes=GIB, machine_id="", is_machine_id_read=True)


@pytest.mark.parametrize(
    ("image", "level", "word"),
    [
        (ImageFacts("/i", "demo", exists=True, size_bytes=5), Level.OK, "whole"),
        (ImageFacts("/i", "demo", exists=False, problem="no manifest.json"), Level.ERROR, "make image"),
        (ImageFacts("/i", "directory", exists=False), Level.ERROR, "missing"),
        (ImageFacts("/i", "directory", exists=True, problem="vmlinuz is missing"), Level.ERROR, "vmlinuz"),
        (DISK, Level.OK, "whole"),
        (replace(DISK, is_bootable=False), Level.ERROR, "boot sector"),
        (replace(DISK, is_tool_missing=True), Level.ERROR, "apt-get install qemu-utils"),
        (replace(DISK, refusals=("on local: mode 0600",)), Level.ERROR, "mode 0600"),
    ],
)
def test_an_image_is_there_and_whole(image: ImageFacts, level: Level, word: str) -> None:
    found = judge_storage.judge_image("web", image)
    assert found.level is level
    assert word in f"{found.what} {found.mend}"


def test_a_machine_id_in_an_image_is_shared_by_all_its_domains() -> None:
    carries = replace(DISK, machine_id="0123456789abcdef0123456789abcdef")
    found = judge_storage.judge_image_identity("web", GROUP, carries)
    must_mend(found, Level.WARNING, "cp --sparse=always /d.raw /d-2.raw", "-a /d-2.raw", "0123456789")
    assert judge_storage.judge_image_identity("web", GROUP, DISK).level is Level.OK
    unread = replace(DISK, is_machine_id_read=False, machine_id=None)
    assert judge_storage.judge_image_identity("web", GROUP, unread).level is Level.SKIPPED
    alone = Group.model_validate({"prefix": "w-", "max": 1})
    assert judge_storage.judge_image_identity("web", alone, carries).level is Level.OK


@pytest.mark.parametrize(
    ("proof", "expected"),
    [
        ("its image cannot be used", {"boots": Level.SKIPPED}),
        (Proof(3.0, "it answers", "shutdown", 1.0), {"boots": Level.OK, "acpi": Level.OK}),
        (Proof(3.0, "it answers", None, 10.0), {"boots": Level.OK, "acpi": Level.WARNING}),
        (Proof(3.0, "it answers", "destroyed", 1.0), {"boots": Level.OK, "acpi": Level.WARNING}),
        (Proof(None, "no answer", None), {"boots": Level.ERROR}),
        (Proof(None, "", None, error="no memory"), {"boots": Level.ERROR}),
    ],
)
def test_what_a_guest_that_was_booted_has_shown(proof: Proof | None, expected: dict[str, Level]) -> None:
    assert levels(judge_storage.judge_proof("web", GROUP, proof)) == expected


@pytest.mark.parametrize(("has_systemd", "mend"), [(True, "systemctl restart virtlogd.socket"), (False, "virtlogd -d")])
def test_a_guest_that_does_not_start_without_virtlogd_mends_to_virtlogd(*, has_systemd: bool, mend: str) -> None:
    proof = Proof(None, "", None, error="Failed to connect socket to '/run/libvirt/virtlogd-sock': refused")
    (found,) = judge_storage.judge_proof("web", GROUP, proof, has_systemd=has_systemd)
    assert found.mend == mend
    other = replace(proof, error="no memory")
    assert judge_storage.judge_proof("web", GROUP, other, has_systemd=has_systemd)[0].mend == "autoscaler events -g web"


def test_what_could_not_be_looked_at_for_lack_of_virtlogd_mends_to_virtlogd() -> None:
    def look(text: str) -> list[Finding]:
        raise HypervisorError(text)

    (found,) = _checked("kvm", "host local", partial(look, "connect socket to '/run/libvirt/virtlogd-sock': no"))
    assert found.mend in ("systemctl restart virtlogd.socket", "virtlogd -d")
    (found,) = _checked("kvm", "host local", partial(look, "denied"))
    assert found.mend == "run it as root: sudo autoscaler doctor"


# --- guests and leftovers -------------------------------------------------------------------------------------------


def member(name: str, **changes: Any) -> MemberFacts:
    values: dict[str, Any] = {"phase": "ready", "is_running": True, "address": "10.0.0.5", "is_right": True} | changes
    return MemberFacts(name=name, host="local", uuid=f"u-{name}", **values)


def test_two_domains_with_one_machine_id_are_an_error() -> None:
    twins = [member("w-0000", identities={"disk": "aa"}), member("w-0001", identities={"disk": "aa", "lease": "bb"})]
    must_mend(judge_guests.judge_identities("w", twins), Level.ERROR, "w-0000, w-0001", "systemd-machine-id-setup")


def test_different_machine_ids_are_well_and_unknown_ones_are_not_judged() -> None:
    apart = [member("w-0000", identities={"disk": "aa"}), member("w-0001", identities={"disk": "bb"})]
    assert judge_guests.judge_identities("w", apart).level is Level.OK
    assert judge_guests.judge_identities("w", [member("w-0000")]).level is Level.SKIPPED


def test_a_domain_that_serves_must_answer_and_one_that_boots_may_wait() -> None:
    why = Unready(kind="status", address="10.0.0.5", port=8080, path="/healthz", came="404")
    silent = member("w-0001", is_right=False, detail="status 404", why=why)
    found = judge_guests.judge_readiness("w", GROUP, [member("w-0000"), silent])
    said = "w-0001 10.0.0.5:8080/healthz answers 404; readiness wants 200"
    must_mend(found, Level.ERROR, said, "curl -si http://10.0.0.5:8080/healthz")
    wrong = judge_guests.judge_readiness("w", GROUP, [replace(silent, phase="booting")])
    must_mend(wrong, Level.WARNING, said, "curl -si http://10.0.0.5:8080/healthz")
    booting = member("w-0001", is_right=False, phase="booting")
    assert judge_guests.judge_readiness("w", GROUP, [booting]).level is Level.NOTE
    unknown = replace(silent, phase="")
    must_mend(judge_guests.judge_readiness("w", GROUP, [unknown]), Level.WARNING, "not looked after yet", "curl")
    assert judge_guests.judge_readiness("w", GROUP, [member("w-0000")]).level is Level.OK
    off = member("w-0000", is_running=False, is_right=None)
    assert judge_guests.judge_readiness("w", GROUP, [off]).level is Level.SKIPPED


def test_guests_clocks_are_compared_with_ours() -> None:
    assert judge_guests.judge_guest_clocks("w", [member("w-0000", clock_off_s=1.0)]).level is Level.OK
    assert judge_guests.judge_guest_clocks("w", [member("w-0000")]).level is Level.SKIPPED
    must_mend(judge_guests.judge_guest_clocks("w", [member("w-0000", clock_off_s=-90)]), Level.WARNING, "w-0000 -90 s")


def test_guests_that_had_to_be_powered_off_are_named() -> None:
    assert judge_guests.judge_stops("w", GROUP, StopFacts(0, 0, ()), []).level is Level.SKIPPED
    assert judge_guests.judge_stops("w", GROUP, StopFacts(3, 0, ()), []).level is Level.OK
    must_mend(judge_guests.judge_stops("w", GROUP, StopFacts(3, 1, ("w-0002",)), []), Level.WARNING, "w-0002")
    deaf = member("w-0003", phase="stopping", stop_calls=2)
    must_mend(judge_guests.judge_stops("w", GROUP, StopFacts(0, 0, ()), [deaf]), Level.WARNING, "w-0003", "acpid")


def test_leftovers_are_named_and_those_of_others_only_noted() -> None:
    assert judge_guests.judge_strays(StrayFacts({}, {}, (), {}, (), ()), "local")[0].level is Level.OK
    strays = StrayFacts({"api-0000": "api"}, {"web-0007": "old"}, ("web-0001",), {"db-0000": "db"}, ("net2",), ("/f",))
    found = judge_guests.judge_strays(strays, "local")
    by_check = levels(found)
    assert by_check == {
        "left-over-domains": Level.WARNING,
        "stale-domains": Level.WARNING,
        "foreign-domains": Level.NOTE,
        "other-domains": Level.NOTE,
        "stale-networks": Level.NOTE,
        "stale-files": Level.NOTE,
    }
    must_mend(found[0], Level.WARNING, "api-0000 (group api)", "make down")
    must_mend(found[1], Level.WARNING, "web-0007 (group old)", "virsh")
    must_mend(found[2], Level.NOTE, "web-0001", "prefix")


def test_only_for_what_this_program_made_a_command_is_told_that_removes_it() -> None:
    strays = StrayFacts({"a-0000": "a"}, {"b-0000": "b"}, ("c-0000",), {"d-0000": "d"}, ("net2",), ("/f",))
    removing = [one.check for one in judge_guests.judge_strays(strays, "local") if REMOVES.search(one.mend)]
    assert removing == ["stale-domains"]


# --- the page --------------------------------------------------------------------------------------------------------

ALL_LEVELS = [
    ok("a", "", "fine"),
    skipped("b", "", "not seen"),
    note("c", "x", "slow"),
    warning("d", "x", "what", "why", "mend"),
    error("e", "x", "what", "why", "mend"),
]


@pytest.mark.parametrize(("count", "code"), [(0, 0), (1, 0), (2, 0), (3, 0), (4, 1), (5, 3)])
def test_the_worst_finding_decides_the_exit_code(count: int, code: int) -> None:
    assert exit_code(ALL_LEVELS[:count]) == code


def test_json_holds_every_finding_and_the_counts() -> None:
    told = json.loads(json.dumps(values(ALL_LEVELS)))
    assert (told["schema"], told["worst"], told["exit_code"]) == (1, "error", 3)
    assert told["counts"] == {"ok": 1, "skipped": 1, "note": 1, "warning": 1, "error": 1}
    assert told["findings"][4] == {
        "level": "error", "check": "e", "about": "x", "what": "what", "why": "why", "mend": "mend",
    }  # fmt: skip


def test_the_page_says_why_and_how_to_mend() -> None:
    text = page(ALL_LEVELS).plain
    assert "error    e                x: what\n         why  why\n         mend mend\n" in text
    assert text.endswith(summary(ALL_LEVELS))
    assert summary(ALL_LEVELS) == "worst: error: 1 ok, 1 skipped, 1 note, 1 warning, 1 error"
