"""Acceleration: when it is proven, what the proof means, and when it is remembered."""

import json
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from common.acceleration import KVM_DEADLINE_S, TCG_DEADLINE_S, Accel, choose, probe_xml, prove
from common.config import Config, Group, Host, System
from common.domain import HostFacts
from common.errors import HypervisorError
from tests.clocks import FakeClock
from tests.waiting import wait_until

FACTS = HostFacts("9000000", "7002022", "x86_64 AMD", frozenset({"qemu", "kvm"}))


@dataclass
class FakeHost:
    """Answers each probe by its accelerator: a reason, None for a hang, or an error."""

    ends: dict[str, str | HypervisorError | None] = field(default_factory=lambda: {"kvm": "shutdown"})
    facts: HostFacts = FACTS
    probes: list[tuple[str, str, float]] = field(default_factory=list)
    swept: list[str] = field(default_factory=list)
    while_it_runs: Callable[[], object] = bool

    def host_facts(self) -> HostFacts:
        return self.facts

    def sweep(self, name: str) -> None:
        self.swept.append(name)

    def run_once(self, xml: str, deadline_s: float) -> str | None:
        root = ET.fromstring(xml)
        accel = root.get("type", "")
        self.probes.append((root.findtext("name", ""), accel, deadline_s))
        self.while_it_runs()
        end = self.ends[accel]
        if isinstance(end, HypervisorError):
            raise end
        return end


@pytest.fixture
def images(tmp_path: Path) -> Path:
    directory = tmp_path / "images"
    directory.mkdir()
    for name in ("vmlinuz", "initramfs.img"):
        (directory / name).write_bytes(b"x")
    (directory / "manifest.json").write_text('{"kernel_arguments": "console=ttyS0 special"}')
    return directory


def run(
    host: FakeHost,
    images: Path,
    accel: str = "auto",
    name: str = "local",
    say: Callable[[str], object] = str,
    clock: FakeClock | None = None,
) -> Accel:
    settings, state = Host.model_validate({"accel": accel}), images.parent / "state"
    return prove(host, name, settings, images, state, clock or FakeClock(), say)


def test_kvm_is_used_when_the_probe_powers_itself_off(images: Path) -> None:
    host = FakeHost()
    assert run(host, images) == Accel("kvm", "a probe guest ran under KVM in 0.0 s")
    assert host.probes == [("autoscaler-probe-local", "kvm", KVM_DEADLINE_S)]


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (None, "hung for 10 s"),
        ("failed", "ended as 'failed'"),
        (HypervisorError("no MSR\n 0x10a"), "did not start (no MSR 0x10a)"),
    ],
)
def test_whatever_is_wrong_under_kvm_software_emulation_is_proven_and_the_reason_kept(
    images: Path, end: str | HypervisorError | None, said: str
) -> None:
    host = FakeHost({"kvm": end, "qemu": "shutdown"})
    accel = run(host, images)
    assert accel.type == "qemu" and said in accel.reason
    assert [probe[1:] for probe in host.probes] == [("kvm", KVM_DEADLINE_S), ("qemu", TCG_DEADLINE_S)]


def test_a_guest_that_runs_under_neither_is_an_error_that_names_the_image(images: Path) -> None:
    with pytest.raises(HypervisorError, match=r"neither under KVM .* nor under software emulation .*images"):
        run(FakeHost({"kvm": None, "qemu": None}), images)


def test_a_probe_left_behind_is_swept_first(images: Path) -> None:
    host = FakeHost()
    run(host, images)
    assert host.swept == ["autoscaler-probe-local"]


def test_what_is_waited_for_is_told(images: Path) -> None:
    told: list[str] = []
    run(FakeHost({"kvm": None, "qemu": "shutdown"}), images, say=told.append)
    assert told == [
        "a probe guest is to power itself off under KVM within 10 s",
        "the probe guest hung for 10 s under KVM; now software emulation, within 90 s",
    ]


@pytest.mark.parametrize("accel", ["kvm", "qemu"])
def test_a_probe_that_somebody_ended_proves_nothing(images: Path, accel: str) -> None:
    with pytest.raises(HypervisorError, match="somebody ended the probe guest autoscaler-probe-local"):
        run(FakeHost({"kvm": None, accel: "destroyed"}), images)
    assert run(FakeHost(), images).type == "kvm"


def test_who_comes_while_another_proves_waits_for_what_it_finds(images: Path) -> None:
    waits = threading.Event()
    first, second = FakeHost(while_it_runs=lambda: waits.wait(20)), FakeHost()
    with ThreadPoolExecutor(1) as pool:
        proof = pool.submit(run, first, images)
        wait_until(lambda: first.probes != [], "a probe")
        found = run(second, images, say=lambda _text: waits.set())
        assert found.reason == f"{proof.result().reason} (remembered)"
    assert (len(first.probes), second.probes, second.swept) == (1, [], [])


def test_a_prover_that_comes_to_no_end_is_not_waited_for_for_ever(images: Path) -> None:
    given_up, clock = threading.Event(), FakeClock()
    first = FakeHost(while_it_runs=lambda: given_up.wait(20))

    def later(_text: str) -> None:
        clock.now_s += 100.0

    with ThreadPoolExecutor(1) as pool:
        pool.submit(run, first, images)
        wait_until(lambda: first.probes != [], "a probe")
        with pytest.raises(HypervisorError, match="another process has been proving the acceleration of local for"):
            run(FakeHost(), images, say=later, clock=clock)
        given_up.set()


def test_hosts_that_are_proven_at_the_same_time_are_all_remembered(images: Path) -> None:
    names = [f"host-{number}" for number in range(8)]
    together = threading.Barrier(len(names))
    with ThreadPoolExecutor(len(names)) as pool:
        for name in names:
            pool.submit(run, FakeHost(while_it_runs=together.wait), images, name=name)
    store = json.loads((images.parent / "state" / "acceleration.json").read_text())
    assert sorted(store) == names


@pytest.mark.parametrize(("accel", "expected"), [("kvm", "kvm"), ("tcg", "qemu")])
def test_what_the_configuration_says_is_not_proven(images: Path, accel: str, expected: str) -> None:
    host = FakeHost()
    assert run(host, images, accel) == Accel(expected, f"the configuration says accel = '{accel}'")
    assert host.probes == []


def test_a_host_that_offers_no_kvm_is_not_probed(images: Path) -> None:
    host = FakeHost(facts=replace(FACTS, domain_types=frozenset({"qemu"})))
    assert run(host, images) == Accel("qemu", "libvirt offers no KVM on this host")
    assert host.probes == []


def test_without_an_image_nothing_is_proven_nor_remembered(images: Path) -> None:
    (images / "initramfs.img").unlink()
    assert run(FakeHost(), images).type == "qemu"
    assert not (images.parent / "state").exists()


def test_the_answer_is_remembered(images: Path) -> None:
    run(FakeHost(), images)
    again = FakeHost()
    assert run(again, images) == Accel("kvm", "a probe guest ran under KVM in 0.0 s (remembered)")
    assert again.probes == []


def test_an_answer_that_cannot_be_kept_counts_all_the_same(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (images.parent / "state").symlink_to("nowhere/at-all")
    assert run(FakeHost(), images).type == "kvm"
    assert "acceleration-not-stored" in capsys.readouterr().out


@pytest.mark.parametrize("changed", ["libvirt", "hypervisor", "cpu_model"])
def test_a_changed_host_is_proven_again(images: Path, changed: str) -> None:
    run(FakeHost(), images)
    again = FakeHost(facts=replace(FACTS, **{changed: "other"}))
    run(again, images)
    assert len(again.probes) == 1


def test_a_changed_image_is_proven_again(images: Path) -> None:
    run(FakeHost(), images)
    (images / "manifest.json").unlink()
    again = FakeHost()
    run(again, images)
    assert len(again.probes) == 1


def test_hosts_are_remembered_apart(images: Path) -> None:
    run(FakeHost(), images)
    run(FakeHost({"kvm": None, "qemu": "shutdown"}), images, name="other")
    assert run(FakeHost(), images).type == "kvm"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"local": 3}', '{"local": {"type": "xen", "reason": 1}}'])
def test_an_unreadable_memory_only_means_to_prove_again(images: Path, text: str) -> None:
    state = images.parent / "state"
    state.mkdir()
    (state / "acceleration.json").write_text(text)
    assert run(FakeHost(), images).type == "kvm"
    assert json.loads((state / "acceleration.json").read_text())["local"]["type"] == "kvm"


def test_choose_takes_image_and_memory_from_the_state_directory(images: Path) -> None:
    config = Config(
        system=System(state_dir=str(images.parent)), groups={"web": Group.model_validate({"prefix": "web-"})}
    )
    assert str(choose(config, "local", FakeHost(), FakeClock())) == "kvm"
    assert (images.parent / "acceleration.json").exists()


def test_a_probe_that_resets_cannot_pass_for_one_that_powered_off(images: Path) -> None:
    text = probe_xml("autoscaler-probe-a", "kvm", images / "vmlinuz", images / "initramfs.img")
    root = ET.fromstring(text)
    assert (root.findtext("on_poweroff"), root.findtext("on_reboot")) == ("destroy", "restart")
    assert root.findtext("os/cmdline") == "console=ttyS0 special autoscaler.probe=1"


def test_people_are_told_which_and_why() -> None:
    assert Accel("qemu", "because").text == "software emulation (TCG): because"
    assert Accel("kvm", "because").text == "KVM: because"
