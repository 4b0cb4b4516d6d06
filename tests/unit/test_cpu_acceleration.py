"""Acceleration: when it is proven, what the proof means, and when it is remembered."""

import json
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from common.acceleration import KVM_DEADLINE_S, TCG_DEADLINE_S, Accel, choose, probe_xml, prove
from common.config import Config, Group, Host, System
from common.domain import HostFacts
from common.errors import HypervisorError
from tests.clocks import FakeClock

FACTS = HostFacts("9000000", "7002022", "x86_64 AMD", frozenset({"qemu", "kvm"}))


@dataclass
class FakeHost:
    """Answers each probe by its accelerator: a reason, None for a hang, or an error."""

    ends: dict[str, str | HypervisorError | None] = field(default_factory=lambda: {"kvm": "shutdown"})
    facts: HostFacts = FACTS
    probes: list[tuple[str, str, float]] = field(default_factory=list)
    swept: list[str] = field(default_factory=list)

    def host_facts(self) -> HostFacts:
        return self.facts

    def sweep(self, name: str) -> None:
        self.swept.append(name)

    def run_once(self, xml: str, deadline_s: float) -> str | None:
        root = ET.fromstring(xml)
        accel = root.get("type", "")
        self.probes.append((root.findtext("name", ""), accel, deadline_s))
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


def run(host: FakeHost, images: Path, accel: str = "auto", name: str = "local") -> Accel:
    return prove(host, name, Host.model_validate({"accel": accel}), images, images.parent / "state", FakeClock())


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
