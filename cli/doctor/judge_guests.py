"""What running and past domains show of themselves: who they are, whether they answer, obey, and keep time."""

from collections.abc import Sequence
from typing import Final

from cli.doctor.facts import MemberFacts, StopFacts, StrayFacts
from cli.doctor.finding import Finding, error, note, ok, skipped, warning
from cli.left_over import listed
from common.config import Group
from common.phases import Phase
from common.unready import WRONG, sentence

CLOCK_TOLERANCE_S: Final = 5.0
MUST_ANSWER: Final = (Phase.WARMING, Phase.READY, Phase.DRAINING)
AWAITED: Final = (Phase.BOOTING, Phase.FAILED, Phase.STANDBY)
MAX_NAMED: Final = 5


def judge_identities(name: str, members: Sequence[MemberFacts]) -> Finding:
    """Return whether two domains of a group have the same machine-id, as far as it could be read."""
    about = f"group {name}"
    owners: dict[str, set[str]] = {}
    for member in members:
        for identity in member.identities.values():
            owners.setdefault(identity, set()).add(member.name)
    known = {name for names in owners.values() for name in names}
    shared = {identity: sorted(names) for identity, names in owners.items() if len(names) > 1}
    if shared:
        said = "; ".join(f"{_some(names)} have {identity}" for identity, names in sorted(shared.items()))
        return error(
            "machine-id",
            about,
            f"the same machine-id: {said}",
            "DHCP servers that go by it give both one address; journals, D-Bus and agents take them for one machine",
            "in each but one: rm /etc/machine-id; systemd-machine-id-setup; reboot   # powered off: "
            f"virt-sysprep -d {sorted(shared.items())[0][1][-1]} --operations machine-id",
        )
    if not known:
        return skipped("machine-id", about, "none could be read: no domain, or it has no disk and no such lease")
    return ok("machine-id", about, f"{len(known)} read, all different")


def judge_readiness(name: str, group: Group, members: Sequence[MemberFacts]) -> Finding:
    """Return whether every domain that should serve answers rightly where the group's readiness asks."""
    about = f"group {name}"
    asked = [m for m in members if m.is_running and m.is_right is not None]
    silent = [m for m in asked if not m.is_right and m.phase in MUST_ANSWER]
    unknown = [m for m in asked if not m.is_right and not m.phase]
    coming = [m for m in asked if not m.is_right and m.phase and m.phase not in MUST_ANSWER]
    wrong = [m for m in coming if m.why is not None and m.why.kind in WRONG and m.phase in AWAITED]
    path = (
        f"{group.readiness.path} at port {group.port}" if group.readiness.protocol == "http" else f"port {group.port}"
    )
    if silent:
        said = _some([*map(_said, silent)], "; ")
        return error(
            "readiness",
            about,
            said,
            "it gets no traffic, and is replaced after a while; if all of them fail, the endpoint answers nobody",
            f"curl -si http://{silent[0].address}:{group.port}{group.readiness.path}   # see groups.{name}.readiness",
        )
    if unknown:
        said = _some([*map(_said, unknown)], "; ")
        return warning(
            "readiness",
            about,
            f"{said}; it is not looked after yet",
            "the group would take it over, and it would get no traffic",
            f"curl -si http://{unknown[0].address}:{group.port}{group.readiness.path}   # see groups.{name}.readiness",
        )
    if wrong:
        return warning(
            "readiness",
            about,
            _some([*map(_said, wrong)], "; "),
            "it is not taken into rotation, and is replaced if it goes on",
            f"curl -si http://{wrong[0].address}:{group.port}{group.readiness.path}   # see groups.{name}.readiness",
        )
    if coming:
        return note("readiness", about, f"{_some([m.name for m in coming])} do not answer yet ({coming[0].phase})")
    if not asked:
        return skipped("readiness", about, "no domain runs that could be asked")
    return ok("readiness", about, f"{path} is answered by {len(asked)} of {len(asked)}")


def _said(member: MemberFacts) -> str:
    """Return what a domain answered, in the words of every other screen."""
    return sentence(member.name, member.why) if member.why else f"{member.name} does not answer ({member.detail})"


def judge_guest_clocks(name: str, members: Sequence[MemberFacts]) -> Finding:
    """Return whether the guests' clocks agree with ours, as far as their answers say the time."""
    about = f"group {name}"
    told = [(m.name, m.clock_off_s) for m in members if m.clock_off_s is not None]
    off = [(domain, off_s) for domain, off_s in told if abs(off_s) > CLOCK_TOLERANCE_S]
    if off:
        said = _some([f"{domain} {off_s:+.0f} s" for domain, off_s in off])
        why = "their logs do not match others', certificates and tokens are refused"
        return warning("guest-clock", about, f"off against this host: {said}", why, "chrony in the image; or kvm-clock")
    if not told:
        return skipped("guest-clock", about, "no guest tells the time in its answers")
    return ok("guest-clock", about, f"{len(told)} agree with this host's to {CLOCK_TOLERANCE_S:g} s")


def judge_stops(name: str, group: Group, stops: StopFacts, members: Sequence[MemberFacts]) -> Finding:
    """Return whether guests obeyed when they were asked to shut down, by what was recorded and what is seen now."""
    about = f"group {name}"
    deaf = [m.name for m in members if m.is_running and m.phase == Phase.STOPPING and m.stop_calls >= 2]
    names = sorted({*stops.names, *deaf})
    if names:
        return warning(
            "acpi",
            about,
            f"{_some(names)} did not shut down within {group.stop_timeout_s:g} s of being asked",
            "scale-in takes that long and then cuts the power: what the guest has not written is lost",
            "install acpid or systemd-logind in the image (HandlePowerKey=poweroff), or raise stop_timeout_s",
        )
    if not stops.left:
        return skipped("acpi", about, "no domain was asked to shut down yet: autoscaler doctor --prove asks one")
    return ok("acpi", about, f"{stops.left} left, none had to be powered off")


def judge_strays(strays: StrayFacts, host: str) -> list[Finding]:
    """Return what carries our mark or a name of ours, and belongs to no group of this file."""
    about = f"host {host}"
    found = []
    if strays.left:
        what = f"made here for groups that this file no longer has like that: {listed(strays.left)}"
        why = "they take memory and names; nothing here looks after them"
        found.append(warning("left-over-domains", about, what, why, "make down; make up   # down removes them"))
    if strays.stale:
        found.append(
            warning(
                "stale-domains",
                about,
                f"made by this program under our names, for no group of this file: {listed(strays.stale, MAX_NAMED)}",
                "they take memory and names; another installation may need them, and nothing here looks after them",
                "make down with the file that they were made with   # virsh dumpxml NAME tells whose it is; only if "
                "nobody's: virsh destroy NAME; virsh undefine NAME",
            )
        )
    if strays.foreign:
        what = f"somebody else's, under names of ours: {_some(strays.foreign)}"
        why = "they are left alone, and the group goes without these names"
        mend = "another prefix for the group; or have their owner rename them: virsh domrename"
        found.append(note("foreign-domains", about, what, why, mend))
    if strays.others:
        said = listed(strays.others, MAX_NAMED)
        why = "made by another installation, or by this one with another network or state_dir; they are left alone"
        found.append(note("other-domains", about, said, why, "virsh dumpxml NAME   # tells whose it is"))
    if strays.networks:
        said = ", ".join(strays.networks)
        why = "made by another installation, which may use it; or left behind by one"
        found.append(note("stale-networks", about, said, why, "virsh net-dumpxml NAME   # tells whose it is"))
    if strays.files:
        said = f"{len(strays.files)} that belong to no domain and no process: {_some(list(strays.files))}"
        why = "they take space; the next start clears most of them away"
        found.append(note("stale-files", about, said, why, "make down; make up   # or remove them by hand"))
    return found or [ok("leftovers", about, "nothing of ours is left behind")]


def _some(names: Sequence[str], between: str = ", ") -> str:
    more = len(names) - MAX_NAMED
    return between.join(names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
