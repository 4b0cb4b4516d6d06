"""What a new domain is made from: its definition, and before that the volumes that the definition names."""

from dataclasses import dataclass, replace

from common.config import Network
from common.volume import Filled, Pool, Volume
from services.actuator.core.clone_xml import CloneIdentity
from services.actuator.core.disks import OVERLAY, SEED, Base, Disk, DomainDisks, overlay, volume_name
from services.actuator.core.domain_xml import DomainSpec, domain_xml
from services.actuator.core.seed import identity_block, seed_bytes, seed_files
from services.actuator.core.seen import Template, Wanted
from services.actuator.core.steps import Define, TakeSnapshot
from services.actuator.seed import seed_volume


@dataclass(frozen=True, slots=True)
class Draft:
    """A definition, and the volumes to be made before it is given to libvirt."""

    xml: str
    volumes: tuple[Volume, ...] = ()


@dataclass(frozen=True, slots=True)
class CloneDisks:
    """What the disks of clones stand on: ``frozen``, the template's disk, as it was when its memory was saved."""

    frozen: str
    base: Base
    disk: Disk
    pool: Pool
    network: Network

    def of(self, domain: str, uuid: str) -> DomainDisks:
        """Return where the disks of a clone are."""
        return disks_of(domain, uuid, self.pool, self.base, self.frozen)

    def volumes(self, domain: str, identity: CloneIdentity) -> tuple[Volume, ...]:
        """Return the clone's overlay and seed; in a seed stands what the guest becomes when it goes on."""
        uuid = identity.record.uuid
        over = replace(overlay(domain, uuid, self.disk, self.base), base=self.frozen, base_format=OVERLAY)
        name = identity.guest_name or identity.name
        block = identity_block(name, uuid, self.network, identity.slot, identity.epoch_ms, identity.seed)
        return over, _seed(domain, uuid, self.network, identity.slot, self.disk, name, block=block)


def disks_of(domain: str, uuid: str, pool: Pool, base: Base, frozen: str = "") -> DomainDisks:
    """Return where the disks of a domain are."""
    return DomainDisks(
        overlay=pool.path_of(volume_name(domain, uuid, OVERLAY)),
        seed=pool.path_of(volume_name(domain, uuid, SEED)),
        base=base.path,
        base_format=base.format,
        frozen=frozen,
    )


def draft(
    wanted: Wanted,
    step: Define | TakeSnapshot,
    template: Template,
    base: Base | None,
    pool: Pool | None,
    program: str = "",
) -> Draft | None:
    """Return all that the step makes; None where the base is not the one that it was planned on.

    Args:
        wanted: The group.
        step: It says which domain.
        template: What it boots.
        base: The group's disk image on the step's host as it is now, None for a kernel's group.
        pool: Where the volumes go.
        program: What the guest runs if it is to be saved.
    """
    disk = template.disk
    if disk is None:
        return Draft(_xml(wanted, step, template, None))
    if pool is None or base is None or base.identity != step.record.base:
        return None
    disks = disks_of(step.domain, step.uuid, pool, base)
    slot = step.record.slot or 0
    block = identity_block(step.domain, step.uuid, wanted.network, slot) if program else b""
    seed = _seed(step.domain, step.uuid, wanted.network, slot, disk, step.domain, program, block)
    return Draft(_xml(wanted, step, template, disks), (overlay(step.domain, step.uuid, disk, base), seed))


def _seed(
    domain: str, uuid: str, network: Network, slot: int, disk: Disk, name: str, program: str = "", block: bytes = b""
) -> Filled:
    files = seed_files(name, uuid, network, slot, disk, program)
    size_bytes = seed_bytes(disk.ssh_keys, disk.user_data) if block else 0
    return Filled(volume_name(domain, uuid, SEED), seed_volume(files, size_bytes, block))


def _xml(wanted: Wanted, step: Define | TakeSnapshot, template: Template, disks: DomainDisks | None) -> str:
    spec = DomainSpec(step.domain, step.uuid, step.record, step.accel, wanted.group, wanted.network, template, disks)
    return domain_xml(spec)
