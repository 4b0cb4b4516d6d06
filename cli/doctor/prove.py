"""``--prove``: boots guests of our own to look at them, and leaves nothing of them.

First the acceleration of every host, then one guest of each template group: under a name of the doctor's, in the
network's last slot, until it answers as itself; then it is asked to power itself off, as a scale-in asks.
"""

import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Final

from cli.doctor.facts import Proof
from cli.doctor.gather_guests import ask, target_of
from cli.doctor.gather_libvirt import HostView, opened
from common.acceleration import choose
from common.clock import Clock, boot_id
from common.config import Config, Group
from common.domain import PROBE_PREFIX
from common.errors import AutoscalerError
from common.hypervisor import Connection
from common.network_xml import network_xml
from common.phases import Phase
from services.actuator.core.domain_xml import DomainSpec, domain_xml
from services.actuator.core.record import Record
from services.actuator.images import Images

LOOK_S: Final = 0.25
START_S: Final = 30.0


def prove_group(config: Config, name: str, host: HostView, clock: Clock) -> Proof:
    """Return what a guest of the group does on one host; the network and the copies of its image may be made for it."""
    try:
        with opened(config, host.name) as connection:
            had_network = host.network(config.network.name)[1]
            connection.ensure_network(network_xml(config.network), config.network.name)
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
    domain = f"{PROBE_PREFIX}doctor-{name}"
    xml = domain_xml(_spec(config, name, host.name, domain, slot, connection, clock))
    connection.sweep(domain)  # one that a killed doctor left behind
    with ThreadPoolExecutor(1) as pool:
        life = pool.submit(connection.run_once, xml, START_S + group.boot_timeout_s + group.stop_timeout_s)
        try:
            return _watched(config, group, domain, slot, connection, life, clock)
        finally:
            connection.sweep(domain)


def _watched(
    config: Config,
    group: Group,
    domain: str,
    slot: int,
    connection: Connection,
    life: Future[str | None],
    clock: Clock,
) -> Proof:
    """Wait for the right answer, then for the guest to obey."""
    target, begun_s = target_of(group, domain, config.network.address(slot)), clock.monotonic_s()
    answer = ask(target, clock)
    while not answer.is_right and clock.monotonic_s() - begun_s < group.boot_timeout_s:
        if life.done():
            return Proof(None, answer.detail, None, error=_why(life))
        Event().wait(LOOK_S)
        answer = ask(target, clock)
    if not answer.is_right:
        return Proof(None, answer.detail, None)
    answered_s, asked_s = clock.monotonic_s() - begun_s, clock.monotonic_s()
    connection.shutdown(domain)
    while not life.done() and clock.monotonic_s() - asked_s < group.stop_timeout_s:
        Event().wait(LOOK_S)
    ended_s = clock.monotonic_s() - asked_s
    return Proof(answered_s, answer.detail, life.result() if life.done() else None, ended_s)


def _why(life: Future[str | None]) -> str:
    error = life.exception()
    return str(error) if error is not None else f"it ended by itself ({life.result()})"


def _spec(
    config: Config, name: str, host: str, domain: str, slot: int, connection: Connection, clock: Clock
) -> DomainSpec:
    group, identity = config.groups[name], str(uuid.uuid4())
    now_s = clock.monotonic_s()
    record = Record(
        group=name,
        uuid=identity,
        host=host,
        phase=Phase.BOOTING,
        since_mono_s=now_s,
        since_s=clock.epoch_s(),
        boot_id=boot_id(),
        slot=slot,
        is_boosted=True,
        cause="doctor",
    )
    template = Images(config.system.state_path).template(group.image.directory)
    return DomainSpec(
        name=domain,
        uuid=identity,
        record=record,
        accel=choose(config, host, connection, clock).type,
        group=group,
        network=config.network,
        template=template,
    )
