"""The doctor's round: look at everything once, judge it, say it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from cli.configuration import unready_receivers
from cli.doctor import gather_guests, gather_libvirt, gather_machine
from cli.doctor.facts import ImageFacts, Proof, ServiceFacts, StopFacts, StrayFacts
from cli.doctor.finding import Finding, Level, virtlogd_mend, warning
from cli.doctor.gather_endpoints import endpoint_facts
from cli.doctor.gather_images import image_facts
from cli.doctor.gather_libvirt import HostView, Owned
from cli.doctor.gather_network import network_facts, user_networks
from cli.doctor.gather_strays import stray_files
from cli.doctor.judge_endpoints import judge_endpoint
from cli.doctor.judge_guests import judge_guest_clocks, judge_identities, judge_readiness, judge_stops, judge_strays
from cli.doctor.judge_host import judge_acceleration, judge_cpus, judge_kvm_device, judge_libvirt, judge_memory
from cli.doctor.judge_machine import (
    judge_clock,
    judge_files_open,
    judge_haproxy,
    judge_ports,
    judge_receivers,
    judge_services,
)
from cli.doctor.judge_network import judge_network, judge_user_network
from cli.doctor.judge_storage import (
    RUN_BYTES,
    judge_image,
    judge_image_identity,
    judge_proof,
    judge_space,
    needed_later_bytes,
    needed_now_bytes,
)
from cli.doctor.prove import prove_group
from cli.libvirt_daemon import has_systemd
from cli.observe import Snapshot, observe_once
from cli.taking_over import way
from cli.unreached import look, why
from common.acceleration import prove
from common.clock import Clock
from common.config import Config, Group
from common.domain import DomainState
from common.errors import AutoscalerError
from common.run_dir import is_locked
from services.actuator.image_check import faults_of
from services.actuator.images import written_for

LISTEN_S: Final = 1.5


@dataclass(frozen=True, slots=True)
class Round:
    """What one round of the doctor looks at. ``groups`` are those that were asked about."""

    config: Config
    digest: str
    clock: Clock
    groups: Mapping[str, Group]
    is_proving: bool
    images: Mapping[str, ImageFacts]
    views: Mapping[str, HostView]
    snapshot: Snapshot
    path: Path | None


def examine(
    config: Config, digest: str, clock: Clock, only: str | None, *, is_proving: bool, path: Path | None = None
) -> list[Finding]:
    """Return all findings, in the order of the checks; a check that cannot be made is a finding too.

    Args:
        config: the configuration that is, or will be, in use.
        digest: of its file.
        clock: for deadlines and the guests' clocks.
        only: one group; None for all.
        is_proving: boot guests of our own where that proves something.
        path: of its file.
    """
    groups = {name: group for name, group in config.groups.items() if only in (None, name)}
    hosts = [name for name in config.hosts if any(name in group.hosts for group in groups.values())]
    found: list[Finding] = []
    if is_proving:
        for host in hosts:
            found += _checked("kvm", f"host {host}", partial(_prove_kvm, config, host, clock))
    views = {name: gather_libvirt.view(config, name) for name in hosts}
    this = Round(
        config=config,
        digest=digest,
        clock=clock,
        groups=groups,
        is_proving=is_proving,
        images={
            name: replace(image_facts(config, g, is_thorough=is_proving), refusals=_refusals(config, name, views))
            for name, g in groups.items()
            if _boots(g)
        },
        views=views,
        snapshot=_heard(config, clock),
        path=path,
    )
    for host in hosts:
        found += _checked("host", f"host {host}", partial(_host, this, host))
    found += _checked("space", "", partial(_spaces, this))
    found += _checked("ports", "", partial(_ports, this))
    found += _checked("machine", "", partial(_machine, this))
    past = gather_guests.stops(config, list(groups), clock)
    for name in groups:
        found += _checked("group", f"group {name}", partial(_group, this, name, past[name]))
    return found


def _host(this: Round, host: str) -> list[Finding]:
    """Return what there is to say about one libvirt host; of one that does not answer, only that."""
    view, config = this.views[host], this.config
    found = judge_libvirt(view.libvirt, host)
    if view.accel is None or view.limits is None:
        return found
    found += [judge_acceleration(view.accel, host), judge_kvm_device(view.accel, host)]
    found += [judge_cpus(this.groups, view.limits, host), judge_memory(this.groups, view.limits, host)]
    if any(_boots(group) and host in group.hosts for group in this.groups.values()):
        found += judge_network(config.network, network_facts(config.network, view), host)
    existing = {name for name, group in this.groups.items() if not _boots(group)}
    for facts in user_networks(view, existing):
        found += judge_user_network(facts, host)
    files = stray_files(config, view) if view.libvirt.is_local else ()
    networks = view.stray_networks(config.network.name)
    strays = StrayFacts(view.left, view.stale, view.foreign, view.others, networks, files)
    return found + judge_strays(strays, host)


def _spaces(this: Round) -> list[Finding]:
    system = this.config.system
    now = needed_now_bytes(this.images)
    here = {host for host, view in this.views.items() if view.libvirt.is_local}
    groups = {name: group for name, group in this.groups.items() if here & set(group.hosts)}
    recording = gather_machine.recording_left_bytes(this.config)
    later = needed_later_bytes(groups, this.images, recording, len(this.config.services))
    return [
        judge_space("system.state_dir", gather_machine.space(system.state_path), now, later),
        judge_space("system.run_dir", gather_machine.space(system.run_path), RUN_BYTES, 0),
    ]


def _ports(this: Round) -> list[Finding]:
    return judge_ports(gather_machine.ports(this.config, this.snapshot.services.keys()))


def _machine(this: Round) -> list[Finding]:
    config, clock = this.config, this.clock
    seen = None if this.snapshot.services or this.path is None else look(config, this.path)
    services = ServiceFacts(
        heard=this.snapshot.services,
        expected=config.services,
        digest=this.digest,
        is_supervised=(config.system.run_path / "supervisord.sock").exists(),
        owned_running=sum(_is_at_work(domain) for view in this.views.values() for domain in view.owned),
        silence="" if seen is None or seen.is_known_stopped else why(seen),
        is_closed=seen is not None and seen.is_closed,
        way=way(config),
    )
    return [
        *judge_haproxy(gather_machine.haproxy(config), bool(config.metrics.haproxy_listen)),
        judge_receivers(unready_receivers(config), len(config.notifications)),
        judge_files_open(config.haproxy.maxconn, gather_machine.open_files()),
        judge_clock(gather_machine.clock_facts(config, clock)),
        *judge_services(services),
    ]


def _group(this: Round, name: str, past: StopFacts) -> list[Finding]:
    """Return what there is to say about one group: what it boots, and what its domains show."""
    config, group = this.config, this.groups[name]
    views = [view for host, view in this.views.items() if host in group.hosts]
    members = gather_guests.members(
        config, name, views, this.snapshot.memberships, this.clock, is_thorough=this.is_proving
    )
    found: list[Finding] = []
    if (image := this.images.get(name)) is not None:
        found += [judge_image(name, image), judge_image_identity(name, group, image)]
        found += judge_proof(name, group, _proof(this, name, image, views), has_systemd=has_systemd())
    if this.snapshot.services:
        found.append(judge_endpoint(name, endpoint_facts(name, group, this.snapshot, this.clock.epoch_s())))
    obeyed = judge_stops(name, group, past, members)
    is_proven = any(finding.check == obeyed.check for finding in found) and obeyed.level is Level.SKIPPED
    return [
        *found,
        judge_identities(name, members),
        judge_readiness(name, group, members),
        judge_guest_clocks(name, members),
        *([] if is_proven else [obeyed]),
    ]


def _refusals(config: Config, name: str, views: Mapping[str, HostView]) -> tuple[str, ...]:
    """Return what the actuator has against the group's image, on the hosts that let this user in."""
    hosts = [host for host in config.groups[name].hosts if host in views and not views[host].libvirt.write_error]
    return tuple(faults_of(config, name, hosts, written_for))


def _proof(this: Round, name: str, image: ImageFacts, views: Sequence[HostView]) -> Proof | str:
    """Return what a guest of the group has shown, or why none was booted."""
    reachable = [view for view in views if not view.libvirt.write_error]
    if not this.is_proving:
        return "autoscaler doctor --prove boots one"
    if not image.is_usable:
        return "its image cannot be used"
    if not reachable:
        return "no host lets this user start a domain"
    return prove_group(this.config, name, reachable[0], this.clock)


def _prove_kvm(config: Config, host: str, clock: Clock) -> list[Finding]:
    """Prove the host's acceleration where it is not remembered; what came out is judged with the rest."""
    state = config.system.state_path
    with gather_libvirt.opened(config, host) as connection:
        prove(connection, host, config.hosts[host], gather_libvirt.probe_images(config), state, clock)
    return []


def _is_at_work(domain: Owned) -> bool:
    return domain.record is not None and domain.facts.state is DomainState.RUNNING


def _boots(group: Group) -> bool:
    return group.kind == "template"


def _heard(config: Config, clock: Clock) -> Snapshot:
    """Return what the services say; nothing where none runs or this user may not hear them."""
    locks = [config.system.run_path / f"{service}.lock" for service in config.services]
    if config.bus.transport == "ipc" and not any(is_locked(lock) for lock in locks):
        return Snapshot()
    try:
        return observe_once(config, clock, LISTEN_S)
    except AutoscalerError:
        return Snapshot()


def _checked(check: str, about: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """Return the findings of one part; a part that could not be looked at is one finding, and stops no other."""
    try:
        return look()
    except (AutoscalerError, OSError) as error:
        what = f"could not be checked: {error}"
        mend = virtlogd_mend(str(error), has_systemd=has_systemd())
        mend = mend or "run it as root: sudo autoscaler doctor"
        return [warning(check, about, what, "nothing is known about this part", mend)]
