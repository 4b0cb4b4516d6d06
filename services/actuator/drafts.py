"""What a new domain is made from: its definition, and before that the volumes that the definition names."""

from dataclasses import dataclass

from common.volume import Filled, Pool, Volume
from services.actuator.core.disks import OVERLAY, SEED, Base, DomainDisks, overlay, volume_name
from services.actuator.core.domain_xml import DomainSpec, domain_xml
from services.actuator.core.seed import seed_files
from services.actuator.core.seen import Template, Wanted
from services.actuator.core.steps import Define
from services.actuator.seed import seed_volume


@dataclass(frozen=True, slots=True)
class Draft:
    """A definition, and the volumes to be made before it is given to libvirt."""

    xml: str
    volumes: tuple[Volume, ...] = ()


def draft(wanted: Wanted, step: Define, template: Template, base: Base | None, pool: Pool | None) -> Draft | None:
    """Return all that the step makes; None where the base is not the one that it was planned on.

    Args:
        base: The group's disk image on the step's host as it is now, None for a kernel's group.
        pool: Where the volumes go.
    """
    disk = template.disk
    if disk is None:
        return Draft(_xml(wanted, step, template, None))
    if pool is None or base is None or base.identity != step.record.base:
        return None
    disks = DomainDisks(
        overlay=pool.path_of(volume_name(step.domain, step.uuid, OVERLAY)),
        seed=pool.path_of(volume_name(step.domain, step.uuid, SEED)),
        base=base.path,
        base_format=base.format,
    )
    slot = step.record.slot or 0
    files = seed_files(step.domain, step.uuid, wanted.network, slot, disk.ssh_keys, disk.user_data)
    seed = Filled(volume_name(step.domain, step.uuid, SEED), seed_volume(files))
    return Draft(_xml(wanted, step, template, disks), (overlay(step.domain, step.uuid, disk, base), seed))


def _xml(wanted: Wanted, step: Define, template: Template, disks: DomainDisks | None) -> str:
    spec = DomainSpec(step.domain, step.uuid, step.record, step.accel, wanted.group, wanted.network, template, disks)
    return domain_xml(spec)
