"""``--prove``: boots guests of our own to look at them, and leaves nothing of them.

First the acceleration of every host, then one guest of each template group: under a name of the doctor's, in the
network's last slot, until it answers as itself; then it is asked to power itself off, as a scale-in asks.
"""

import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Final

from cli.doctor import gather_libvirt
from cli.doctor.facts import Proof
from cli.doctor.gather_libvirt import HostView, probe_images
from common.acceleration import prove
from common.clock import Clock, boot_id
from common.config import Config, Group
from common.domain import PROBE_PREFIX
from common.errors import AutoscalerError
from common.hypervisor import Connection
from common.name_servers import name_servers
from common.network_xml import network_xml
from common.phases import Phase
from services.actuator.access import disk_pool
from services.actuator.core.disks import owner_of
from services.actuator.core.record import Record
from services.actuator.core.seen import Wanted
from services.actuator.core.steps import Define
from services.actuator.drafts import Draft, draft
from services.actuator.images import Images
from services.actuator.keeper import look
from services.actuator.prober import Target, probe, target_of

LOOK_S: Final = 0.25
START_S: Final = 30.0


def prove_group(config: Config, name: str, host: HostView, clock: Clock) -> Proof:
    """Return what a guest of the group does on one host; what must be made for it is removed again."""
    pool = disk_pool(config)
    try:
        with gather_libvirt.opened(config, host.name, pool) as connection:
            had_network = host.network(config.network.name)[1]
            connection.ensure_network(network_xml(config.network, name_servers(config.network)), config.network.name)
            try:
                return _boot(config, name, host, connection, clock)
            finally:
                if not had_network:
                    connection.remove_network(config.network.name)
    except AutoscalerError as error:
        return Proof(None, "", None, error=str(error))


def _boot(config: Config, name: str, host: HostView, connection: Connection, clock: Clock) -> Proof:
    group, slot = config.groups[name], config.network.slots - 1
    if any(domain.record is not None and domain.record.slot == slot for domain in host.owned):
        return Proof(None, "", None, error=f"the network's last slot ({slot}), which the doctor uses, is taken")
    domain, identity = f"{PROBE_PREFIX}doctor-{name}", str(uuid.uuid4())
    connection.sweep(domain)  # one that a killed doctor left behind
    made = _draft(config, name, host.name, domain, identity, connection, clock)
    if isinstance(made, str):
        return Proof(None, "", None, error=made)
    had_pool = not made.volumes or bool(connection.volumes())
    try:
        for volume in made.volumes:
            connection.make_volume(volume)
        return _lived(config, group, domain, host.name, made.xml, connection, clock)
    finally:
        connection.remove_volumes(lambda volume: owner_of(volume) == identity)
        if not had_pool:
            connection.remove_pool()


def _lived(
    config: Config, group: Group, domain: str, host: str, xml: str, connection: Connection, clock: Clock
) -> Proof:
    """Run the guest in a thread of its own until it has shown what it does; it is gone after the call."""
    target = target_of(group, host, domain, config.network.address(config.network.slots - 1))
    with ThreadPoolExecutor(1) as pool:
        life = pool.submit(connection.run_once, xml, START_S + group.boot_timeout_s + group.stop_timeout_s)
        try:
            return _watched(group, target, connection, life, clock)
        finally:
            connection.sweep(domain)


def _watched(group: Group, target: Target, connection: Connection, life: Future[str | None], clock: Clock) -> Proof:
    """Wait for the right answer, then for the guest to obey."""
    begun_s = clock.monotonic_s()
    answer = probe(target, lambda _host, domain, timeout_s: connection.agent_host_name(domain, timeout_s))
    while not answer.is_right and clock.monotonic_s() - begun_s < group.boot_timeout_s:
        if life.done():
            return Proof(None, answer.detail, None, error=_why(life))
        Event().wait(LOOK_S)
        answer = probe(target, lambda _host, domain, timeout_s: connection.agent_host_name(domain, timeout_s))
    if not answer.is_right:
        return Proof(None, answer.detail, None)
    answered_s, asked_s = clock.monotonic_s() - begun_s, clock.monotonic_s()
    connection.shutdown(target.name)
    while not life.done() and clock.monotonic_s() - asked_s < group.stop_timeout_s:
        Event().wait(LOOK_S)
    ended_s = clock.monotonic_s() - asked_s
    return Proof(answered_s, answer.detail, life.result() if life.done() else None, ended_s)


def _why(life: Future[str | None]) -> str:
    error = life.exception()
    return str(error) if error is not None else f"it ended by itself ({life.result()})"


def _draft(
    config: Config, name: str, host: str, domain: str, identity: str, connection: Connection, clock: Clock
) -> Draft | str:
    """Return what the guest is made from, as the actuator makes a domain of the group; or why it cannot be made."""
    group = config.groups[name]
    template = Images(config.system.state_path).of(group.image, config.network)
    disk = template.disk
    base = None if disk is None else look(connection, {disk.path})[disk.path]
    if base is not None and base.note:
        return base.note
    record = Record(
        group=name,
        uuid=identity,
        host=host,
        phase=Phase.BOOTING,
        since_mono_s=clock.monotonic_s(),
        since_s=clock.epoch_s(),
        boot_id=boot_id(),
        slot=config.network.slots - 1,
        is_boosted=True,
        cause="doctor",
        base=base.identity if base is not None else "",
    )
    accel = prove(connection, host, config.hosts[host], probe_images(config), config.system.state_path, clock).type
    step = Define(
        group=name, host=host, domain=domain, uuid=identity, reason="the doctor looks", record=record, accel=accel
    )
    made = draft(Wanted(name, group, config.network, None), step, template, base, disk_pool(config))
    return made if made is not None else f"nothing can be made from {group.image.disk} now"
