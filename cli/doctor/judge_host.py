"""Whether one host can do what its groups ask of it: libvirt, acceleration, CPUs, memory."""

from collections.abc import Mapping
from typing import Final

from cli.doctor.facts import UNIT_ACCOUNT, AccelFacts, LibvirtFacts, LimitFacts
from cli.doctor.finding import Finding, error, note, ok, size, skipped, warning
from cli.kvm_device import CONSEQUENCE, MEND
from common.config import Group
from services.actuator.core.placement import MIB, OVERHEAD_BYTES
from services.actuator.core.sizing import largest

RESERVE_BYTES: Final = 256 * 1024 * 1024
START: Final = "make up   # it starts libvirt's daemons where there is no systemd"
EMULATED: Final = "guests run in software, much slower than with KVM; they serve all the same"


def judge_libvirt(facts: LibvirtFacts, host: str) -> list[Finding]:
    """Return whether libvirt answers, and whether this user may use it to look and to change."""
    about = f"host {host}"
    if facts.read_error:
        return [_unreachable(facts, about)]
    found = [ok("libvirt", about, f"{facts.release} answers at {facts.uri}")]
    if facts.write_error:
        found.append(_no_rights(facts, about))
    else:
        found.append(ok("libvirt-rights", about, f"{facts.user} may look and change"))
    if facts.unit_groups is not None and "libvirt" not in facts.unit_groups:
        what = f"the account of the actuator's unit, {UNIT_ACCOUNT}, is not in the group libvirt"
        why = "polkit and libvirt's read-write socket let that group in: under systemd no domain is started"
        found.append(error("libvirt-rights", about, what, why, f"usermod -aG libvirt {UNIT_ACCOUNT}"))
    return found


def _unreachable(facts: LibvirtFacts, about: str) -> Finding:
    why = "the monitor sees no domain, and the actuator can start none"
    missing = [socket.path for socket in facts.sockets if not socket.exists]
    refused = [socket.path for socket in facts.sockets if socket.exists and not socket.is_allowed]
    if facts.is_local and missing:
        mend = "systemctl enable --now libvirtd" if facts.has_systemd else START
        return error("libvirt", about, f"it does not run: no {missing[0]}", why, mend)
    if facts.is_local and refused:
        return _no_rights(facts, about)
    what = f"{facts.uri} does not answer: {facts.read_error}"
    version = f"virsh -c {facts.uri} version"
    if not facts.is_local:
        return error("libvirt", about, what, why, f"{version}   # and on that host: systemctl status libvirtd")
    mend = f"{version}   # and: systemctl status libvirtd" if facts.has_systemd else START
    return error("libvirt", about, what, why, mend)


def _no_rights(facts: LibvirtFacts, about: str) -> Finding:
    mend = f"usermod -aG libvirt {facts.user}   # then log in again; or run this with sudo"
    if "libvirt" in facts.groups or facts.is_root:
        mend = (
            'auth_unix_rw = auth_unix_ro = "none" in /etc/libvirt/libvirtd.conf where there is no polkit, with '
            f'unix_sock_group = "libvirt" and unix_sock_rw_perms = "0770"; {_restart(facts)}'
        )
    return error(
        "libvirt-rights",
        about,
        f"{facts.user} (groups {', '.join(facts.groups) or 'none'}) may not change domains: "
        f"{facts.write_error or facts.read_error}",
        "the actuator needs libvirt's read-write socket; the other services do not",
        mend,
    )


def _restart(facts: LibvirtFacts) -> str:
    return "systemctl restart libvirtd" if facts.has_systemd else "kill $(cat /run/libvirtd.pid); make up"


def judge_acceleration(facts: AccelFacts, host: str) -> Finding:
    """Return whether KVM works, as far as that has been proven, and what that means for what is configured."""
    about = f"host {host}"
    if facts.wanted == "tcg":
        return ok("kvm", about, "not wanted: accel = 'tcg'")
    if facts.proven is not None and facts.proven.type == "kvm":
        return ok("kvm", about, facts.proven.reason)
    if facts.proven is not None and facts.proven.type == "qemu":
        return _emulated(facts, about, facts.proven.reason)
    if not facts.is_offered:
        return _emulated(facts, about, _not_offered(facts))
    what = "offered, and not proven: a host may offer KVM and hang every guest under it"
    return note("kvm", about, what, "a scale-out that never answers", "make image && autoscaler doctor --prove")


def judge_kvm_device(facts: AccelFacts, host: str) -> Finding:
    """Return whether QEMU's account may open ``/dev/kvm``, where there is one."""
    if facts.why_closed:
        return warning("kvm-device", f"host {host}", facts.why_closed, CONSEQUENCE, MEND)
    return ok("kvm-device", f"host {host}", "open to QEMU's group" if facts.has_device else "no /dev/kvm here")


def _not_offered(facts: AccelFacts) -> str:
    if facts.has_device:
        return "/dev/kvm is there, but libvirt offers no KVM"
    return "no /dev/kvm: switched off in the firmware, or a virtual machine without nested virtualization"


def _emulated(facts: AccelFacts, about: str, reason: str) -> Finding:
    if facts.wanted == "kvm":
        mend = 'accel = "auto" in [hosts.…] of autoscaler.toml; or enable virtualization in the firmware, modprobe kvm'
        return error("kvm", about, f"accel = 'kvm', but {reason}", "no domain would ever answer", mend)
    return note("kvm", about, reason, EMULATED, "enable (nested) virtualization, then: autoscaler doctor --prove")


def judge_cpus(groups: Mapping[str, Group], facts: LimitFacts, host: str) -> Finding:
    """Return whether the host has as many CPUs as its template groups may use at their upper bounds."""
    about, ours = f"host {host}", _ours(groups, host)
    if facts.cpus is None or not ours:
        return skipped("cpus", about, "no template group" if not ours else "could not be read")
    wanted = sum(g.maximum * g.image.vcpus * g.image.cpu_quota / len(g.hosts) for g in ours.values())
    said = f"{wanted:g} of {facts.cpus} CPUs at the upper bounds of {', '.join(ours)}"
    if wanted <= facts.cpus:
        return ok("cpus", about, said)
    return warning(
        "cpus",
        about,
        f"the groups may use {said}",
        "domains take CPU from each other: their CPU ratio stays below what the policies wait for, while users wait",
        "lower max, vcpus or cpu_quota of the groups in autoscaler.toml, or add a host",
    )


def judge_memory(groups: Mapping[str, Group], facts: LimitFacts, host: str) -> Finding:
    """Return whether the host has memory for as many domains as its template groups may run or keep paused."""
    about, ours = f"host {host}", _ours(groups, host)
    if facts.free_memory_bytes is None or facts.total_memory_bytes is None or not ours:
        return skipped("memory", about, "no template group" if not ours else "could not be read")
    wanted = sum(_bytes_each(g) * _in_memory(g) / len(g.hosts) for g in ours.values())
    taken = sum(_bytes_each(g) * facts.owned.get(name, 0) for name, g in ours.items())
    available = facts.free_memory_bytes + taken
    said = f"{size(wanted)} for all domains that {', '.join(ours)} may run; {size(available)} available"
    mend = "lower max, surge or memory_mib of the groups in autoscaler.toml, or stop what else runs on the host"
    why = "starts fail with 'cannot allocate memory', or the kernel kills the largest process: a guest"
    smallest = sum(_bytes_each(g) * g.minimum / len(g.hosts) for g in ours.values())
    if smallest + RESERVE_BYTES > available:
        return error("memory", about, f"not even the lower bounds fit ({size(smallest)}): {said}", why, mend)
    if wanted + RESERVE_BYTES > available:
        return warning("memory", about, said, why, mend)
    return ok("memory", about, said)


def _in_memory(group: Group) -> int:
    """Return how many domains may be in memory at once: those on disk are woken within the bounds."""
    return group.maximum + group.surge + largest(group).paused + group.warm.templates


def _bytes_each(group: Group) -> int:
    return group.image.memory_mib * MIB + OVERHEAD_BYTES


def _ours(groups: Mapping[str, Group], host: str) -> dict[str, Group]:
    return {name: g for name, g in groups.items() if g.kind == "template" and host in g.hosts}
