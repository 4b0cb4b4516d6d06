"""What the actuator needs of a host, and how a domain is made there with its volumes."""

from collections.abc import Callable, Mapping
from typing import Protocol

from common.domain import DiskTrouble, DomainFacts
from common.errors import HypervisorBusyError, HypervisorError, HypervisorLostError
from common.log import logger
from common.virt.addresses import Candidate, Rule
from common.volume import SeenVolume, Volume
from services.actuator.core.disks import OVERLAY, SEED, belonging, owner_of
from services.actuator.core.steps import Step
from services.actuator.drafts import Draft

log = logger()


class Host(Protocol):
    """What the actuator needs of ``common.hypervisor.Connection``."""

    def domains(self) -> list[DomainFacts]: ...
    def facts(self, name: str) -> DomainFacts | None: ...
    def define(self, xml: str) -> str: ...
    def start(self, name: str, uuid: str) -> None: ...
    def shutdown(self, name: str, uuid: str) -> None: ...
    def shutdown_by_agent(self, name: str, uuid: str) -> bool: ...
    def destroy(self, name: str, uuid: str) -> None: ...
    def undefine(self, name: str, uuid: str) -> None: ...
    def suspend(self, name: str, uuid: str) -> None: ...
    def resume(self, name: str, uuid: str) -> None: ...
    def set_time(self, name: str, uuid: str, timeout_s: float) -> bool: ...
    def save(self, name: str, uuid: str) -> None: ...
    def save_to(self, name: str, uuid: str, path: str) -> None: ...
    def restore(self, name: str, path: str) -> None: ...
    def set_link(self, name: str, uuid: str, is_up: bool) -> None: ...
    def set_metadata(self, name: str, uuid: str, metadata: Mapping[str, str]) -> None: ...
    def set_quota(self, name: str, uuid: str, cpu_quota: float | None) -> None: ...
    def addresses(self, name: str, rule: Rule) -> tuple[Candidate, ...]: ...
    def agent_host_name(self, name: str, timeout_s: float) -> str | None: ...
    def make_volume(self, volume: Volume) -> None: ...
    def volumes(self) -> list[SeenVolume]: ...
    def owners(self, without: str = "") -> tuple[frozenset[str], frozenset[str]]: ...
    def remove_volumes(self, is_to_go: Callable[[str], bool]) -> None: ...
    def disk_troubles(self, name: str) -> tuple[DiskTrouble, ...]: ...
    def free_memory_bytes(self) -> int: ...
    def host_cpus(self) -> int: ...
    def is_alive(self) -> bool: ...
    def close(self) -> None: ...


def define(host: Host, step: Step, draft: Draft) -> None:
    """Make the volumes, then the definition that names them; where that fails, the volumes go too."""
    try:
        for volume in draft.volumes:
            host.make_volume(volume)
        host.define(draft.xml)
    except (HypervisorBusyError, HypervisorLostError):
        raise  # it may have been defined: the keeper removes them if not
    except HypervisorError:
        if draft.volumes:
            remove_volumes(host, lambda volume: owner_of(volume) == step.uuid)
        raise


def remove_disks(host: Host, uuid: str) -> None:
    """Remove a domain's volumes, and what snapshots have put on them; what cannot be removed is left to the keeper."""
    names = _on_its_disks(host, uuid)
    remove_volumes(host, lambda volume: owner_of(volume) == uuid if names is None else volume in names)


def _on_its_disks(host: Host, uuid: str) -> frozenset[str] | None:
    """Return what goes with the domain, None where that cannot be told: then its own volumes do.

    The other domains are asked only where there is more than its own: asking waits while libvirt ends one of them.
    """
    try:
        volumes = host.volumes()
        names = belonging(volumes, uuid, ())
        is_more = any(name.rpartition(".")[2] not in (OVERLAY, SEED) for name in names)
        return belonging(volumes, uuid, host.owners(uuid)[1]) if is_more else names
    except (HypervisorBusyError, HypervisorLostError):
        raise
    except HypervisorError as error:
        log.warning("volumes-unknown", error=str(error))
        return None


def remove_volumes(host: Host, is_to_go: Callable[[str], bool]) -> None:
    """Remove volumes by their names; what cannot be removed is left to the keeper."""
    try:
        host.remove_volumes(is_to_go)
    except (HypervisorBusyError, HypervisorLostError):
        raise
    except HypervisorError as error:
        log.warning("volumes-left", error=str(error))
