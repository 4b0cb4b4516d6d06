"""Whether there is room for what will be written, and whether what the groups boot is there and whole."""

import math
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Final

from cli.doctor.facts import ImageFacts, Proof, SpaceFacts
from cli.doctor.finding import Finding, error, ok, size, skipped, virtlogd_mend, warning
from common.config import Group
from services.actuator.core.sizing import largest

MIB: Final = 1024 * 1024
GIB: Final = 1024 * MIB
BUILD_BYTES: Final = 1024 * MIB  # what building the demo guest takes for a while
START_BYTES: Final = 64 * MIB  # stores, logs, HAProxy's state: below this nothing starts well
LOG_BYTES: Final = 30 * MIB  # of each service: supervisord keeps three files of 10 MB
RUN_BYTES: Final = 1 * MIB
MIN_FREE_FILES: Final = 2000


def needed_now_bytes(images: Mapping[str, ImageFacts]) -> int:
    """Return what the next start writes: building the demo guest if it is missing, copies of what is booted."""
    distinct = {image.source: image for image in images.values()}.values()
    build = sum(BUILD_BYTES for image in distinct if image.kind == "demo" and not image.exists)
    return START_BYTES + build + sum(image.size_bytes for image in distinct if image.kind != "disk")


def needed_later_bytes(
    groups: Mapping[str, Group], images: Mapping[str, ImageFacts], recording_left_bytes: int, services: int
) -> int:
    """Return what the state directory may still grow by: recording, logs, memory that is kept, disks of domains.

    Args:
        groups: those with domains on this machine.
        images: what they boot, by the same names.
        recording_left_bytes: what the recording may still grow by.
        services: how many of them write a log.
    """
    kept = sum(_memory_bytes(group) for group in groups.values())
    disks = sum(_disk_bytes(group, images[name]) for name, group in groups.items() if name in images)
    return recording_left_bytes + services * LOG_BYTES + kept + disks


def _memory_bytes(group: Group) -> int:
    """Return the memory of domains that stand by on disk, and of the template that clones begin as."""
    return (largest(group).saved + group.warm.templates) * group.image.memory_mib * MIB


def _disk_bytes(group: Group, image: ImageFacts) -> int:
    """Return what the overlays of all domains of the group take when their guests have written everywhere."""
    if image.kind != "disk":
        return 0
    each = max(image.capacity_bytes, round((group.image.disk_gib or 0) * GIB))
    domains = group.maximum + group.surge + largest(group).total + group.warm.templates
    return math.ceil(domains / len(group.hosts)) * each


def judge_space(label: str, facts: SpaceFacts, now_bytes: int, later_bytes: int) -> Finding:
    """Return whether a directory's file system holds what is written now, and what it may grow by."""
    why = "starts fail, the recording stops, and a store that cannot be written is forgotten at the next restart"
    find = f"df -h {facts.mount}   # then free some, or set another {label} in autoscaler.toml"
    if not facts.is_writable:
        what = f"{facts.path} cannot be written by this user"
        return error("space", label, what, "the services keep their state there", f"sudo, or: chown … {facts.path}")
    free = size(facts.free_bytes)
    if facts.free_bytes < now_bytes:
        return error("space", label, f"{free} free at {facts.mount}; {size(now_bytes)} needed at once", why, find)
    if facts.free_files is not None and facts.free_files < MIN_FREE_FILES:
        return error("space", label, f"only {facts.free_files} free inodes at {facts.mount}", why, find)
    wanted = now_bytes + later_bytes
    if facts.free_bytes < wanted:
        return warning("space", label, f"{free} free at {facts.mount}; it may grow by {size(wanted)}", why, find)
    return ok("space", label, f"{free} free at {facts.mount}; at most {size(wanted)} needed")


def judge_image(name: str, image: ImageFacts) -> Finding:
    """Return whether what the group boots is there, whole, and looks like something that boots."""
    about = f"group {name}"
    why = "no domain of this group can start"
    mend = (
        "make image" if image.kind == "demo" else f"put a whole image at {image.source}, or change groups.{name}.image"
    )
    if not image.exists:
        return error("image", about, f"{image.source} is missing{_because(image)}", why, mend)
    if image.is_tool_missing:
        what = "qemu-img is not installed, and libvirt makes the domains' disks with it"
        return error("image", about, what, why, "apt-get install qemu-utils")
    if image.problem:
        return error("image", about, f"{image.source} is not whole: {image.problem}", why, mend)
    if image.refusals:
        return error("image", about, "; ".join(image.refusals), why, "change what it names; make up asks the same")
    if image.is_bootable is False:
        return error("image", about, f"{image.source} is no qcow2 and has no boot sector", why, mend)
    return ok("image", about, f"{image.source} is whole ({size(image.size_bytes)})")


def judge_image_identity(name: str, group: Group, image: ImageFacts) -> Finding:
    """Return whether the image carries a machine-id, which all its domains would share."""
    about = f"group {name}"
    if image.kind != "disk":
        return ok("image-machine-id", about, "the image has no disk that could carry one")
    if not image.is_machine_id_read:
        what = "the disk could not be read from outside: no ext4, or large and qcow2 (--prove unpacks it)"
        return skipped("image-machine-id", about, what)
    if not image.machine_id:
        return ok("image-machine-id", about, "empty: each domain makes its own")
    if group.maximum <= 1:
        return ok("image-machine-id", about, "set; the group has one domain only")
    return warning(
        "image-machine-id",
        about,
        f"{image.source} carries the machine-id {image.machine_id}",
        "all its domains share it: DHCP servers give them one address, journals and agents take them for one machine",
        f"on a copy, which becomes groups.{name}.image.disk: disks of domains stand on this file. cp --sparse=always "
        f"{image.source} {_copy_of(image.source)}; virt-sysprep --operations machine-id -a {_copy_of(image.source)}",
    )


def judge_proof(name: str, group: Group, proof: Proof | str, *, has_systemd: bool = True) -> list[Finding]:
    """Return what the guest that was booted to be looked at has shown: it boots, answers, obeys the power button.

    Args:
        name: of the group.
        group: its table.
        proof: what was shown, or why none was booted.
        has_systemd: it runs this machine.
    """
    about = f"group {name}"
    if isinstance(proof, str):
        return [skipped("boots", about, f"not tried: {proof}")]
    if proof.error:
        why = "the next scale-out meets the same"
        mend = virtlogd_mend(proof.error, has_systemd=has_systemd) or f"autoscaler events -g {name}"
        return [error("boots", about, f"a guest did not start: {proof.error}", why, mend)]
    if proof.answered_s is None:
        return [
            error(
                "boots",
                about,
                f"a guest did not answer rightly within {group.boot_timeout_s:g} s ({proof.detail})",
                "every domain is replaced before it serves",
                f"look at its console in <state_dir>/actuator/console; check port and readiness of groups.{name}",
            )
        ]
    return [
        ok("boots", about, f"a guest answered as itself {proof.answered_s:.1f} s after its start"),
        _acpi(about, group, proof),
    ]


def _acpi(about: str, group: Group, proof: Proof) -> Finding:
    if proof.ended == "shutdown" and proof.ended_s is not None:
        return ok("acpi", about, f"it powered itself off {proof.ended_s:.1f} s after it was asked to")
    return warning(
        "acpi",
        about,
        f"it did not power itself off within {group.stop_timeout_s:g} s of the ACPI request",
        "every scale-in waits that long and then cuts the power: what the guest has not written is lost",
        "install acpid or systemd-logind in the image (HandlePowerKey=poweroff), or raise stop_timeout_s",
    )


def _copy_of(source: str) -> str:
    path = PurePosixPath(source)
    return str(path.with_name(f"{path.stem}-2{path.suffix}"))


def _because(image: ImageFacts) -> str:
    return f" ({image.problem})" if image.problem else ""
