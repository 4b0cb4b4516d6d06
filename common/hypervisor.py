"""The only file that imports libvirt: a host behind one interface, errors translated in one place.

Every method blocks and raises a HypervisorError; callers run it in a thread that may be late. Each thread gets a line
to the host of its own (see the note in ``common.virt.lines``). libvirt's event loop runs in one thread of the process,
for events and for keepalive: a host that falls silent is lost after 20 s. Nanoseconds, libvirt's codes and flags end
here.
"""

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar

import libvirt

from common.clock import Clock, SystemClock
from common.domain import (
    METADATA_PREFIX,
    METADATA_URI,
    PROBE_PREFIX,
    CpuReading,
    DiskTrouble,
    DomainFacts,
    DomainState,
    HostCpu,
    HostFacts,
    LifecycleEvent,
    allotted_cpus,
    cpu_model,
    disk_sources,
    domain_types,
    has_agent,
    has_link,
    interface_with_link,
    is_limited,
    metadata_element,
    name_in_xml,
    networks_of,
    parse_metadata,
)
from common.domain_states import SAVED
from common.errors import DomainGoneError, HypervisorBusyError, HypervisorError, HypervisorLostError
from common.network_xml import has_dns, host_xml, network_uuid, shape
from common.phases import Phase
from common.plain import plain, plain_name
from common.virt import storage
from common.virt.addresses import Candidate, Nic, Rule, Source, leased, nics_in, ranked, told_by_agent
from common.virt.arp import TABLE, neighbours
from common.virt.constants import LibvirtNames
from common.virt.lines import Line, Lines
from common.virt.remembered import Remembered
from common.volume import ImageFacts, Pool, SeenVolume, Volume, files_of, reader

__all__ = ["Connection", "CpuReading", "DomainFacts", "DomainState", "HostFacts", "LifecycleEvent"]

KEEPALIVE_INTERVAL_S: Final = 5
KEEPALIVE_COUNT: Final = 3
REMEMBER_S: Final = 5.0
QUOTA_PERIOD_US: Final = 100_000
LOOKS: Final = 3
NANOSECONDS: Final = 1e9

_T = TypeVar("_T")
_NAMES: Final = LibvirtNames(vars(libvirt))
_ENDS: Final = {"stopped", "crashed", "failed"}
_BUSY: Final = {libvirt.VIR_ERR_OPERATION_TIMEOUT, libvirt.VIR_ERR_RESOURCE_BUSY}
_LOST: Final = {libvirt.VIR_ERR_RPC, libvirt.VIR_ERR_NO_CONNECT, libvirt.VIR_ERR_INVALID_CONN}
_NO_ADDRESS_YET: Final = {
    libvirt.VIR_ERR_OPERATION_INVALID,
    libvirt.VIR_ERR_AGENT_UNRESPONSIVE,
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED,
}
_NOT_HERE: Final = {libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_SUPPORT}
_GONE: Final = {libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_NO_NETWORK, libvirt.VIR_ERR_NO_STORAGE_VOL}
_POOL_GONE: Final = {
    libvirt.VIR_ERR_NO_STORAGE_POOL,
    libvirt.VIR_ERR_OPERATION_INVALID,
    libvirt.VIR_ERR_OPERATION_FAILED,
}
_UNKNOWN_FLAG: Final = {libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED}
_UNDEFINE_BASIC: Final = libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
_UNDEFINE_ALL: Final = (
    _UNDEFINE_BASIC | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
)


class Connection:
    """One libvirt host.

    Every method that changes a domain refuses, with HypervisorError, a name that neither ``may_touch`` allows nor
    carries our metadata.
    """

    def __init__(
        self, uri: str, is_read_only: bool, may_touch: Callable[[str], bool], clock: Clock, pool: Pool | None = None
    ) -> None:
        """Connect; see ``open``."""
        self.uri = uri
        self._pool = pool
        self._may_touch = may_touch
        self._clock = clock
        self._lines = Lines(partial(_open, uri, is_read_only), _close, is_shared=uri.startswith("test:"))
        self._callbacks: list[int] = []
        self._listeners: list[Callable[[LifecycleEvent], None]] = []
        self._known: dict[str, str] = {}
        self._parameters: Remembered[Mapping[str, int | float]] = Remembered(REMEMBER_S)
        self._carries_metadata: Remembered[bool] = Remembered(REMEMBER_S)

    @classmethod
    def open(
        cls,
        uri: str,
        *,
        is_read_only: bool,
        may_touch: Callable[[str], bool],
        clock: Clock | None = None,
        pool: Pool | None = None,
    ) -> "Connection":
        """Return a new connection; ``pool`` is ours on that host, for the volumes of domains.

        Raises:
            HypervisorLostError: libvirt cannot be reached, or refuses us.
        """
        return cls(uri, is_read_only, may_touch, clock or SystemClock(), pool)

    def is_alive(self) -> bool:
        """Return whether the connection still stands, without asking the host."""
        try:
            return bool(self._lines.first.isAlive())
        except libvirt.libvirtError:
            return False  # a closed connection cannot even be asked

    def close(self) -> None:
        """Let go of the connection; one that is already lost is no error. A frozen host holds this up for 20 s."""
        for callback in self._callbacks:
            with _already_lost_is_fine():
                self._lines.first.domainEventDeregisterAny(callback)
        self._callbacks.clear()
        with _already_lost_is_fine():
            self._lines.first.unregisterCloseCallback()
        self._lines.close()

    # --- looking ---------------------------------------------------------------------------------------------

    def domains(self) -> list[DomainFacts]:
        """Return our domains, defined or running, with state and metadata, in order of names.

        Two calls, and one more for each domain of the host (0.14 ms): foreign ones are asked for our metadata too.
        Like ``refresh``, it waits while libvirt ends a domain.
        """
        with self._call(f"list the domains of {self.uri}") as line:
            listed = line.raw.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_PERSISTENT)
            persistent = {domain.UUIDString() for domain in listed}
            records = line.raw.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE)
            facts = [_unless_gone(partial(self._facts, domain, record, persistent)) for domain, record in records]
        return sorted((fact for fact in facts if fact is not None), key=lambda fact: fact.name)

    def facts(self, name: str) -> DomainFacts | None:
        """Return one of our domains, None if it is not there or not ours; waits for no other domain."""
        with self._call(f"look at {name}") as line:
            return _unless_gone(lambda: self._facts_of(line.raw.lookupByName(name)))

    def cpu_readings(self) -> list[CpuReading]:
        """Return the CPU counter of each of our domains, in order of names; QEMU is never asked. See ``refresh``."""
        self.refresh()
        readings = [self.reading(uuid) for uuid in self.known()]
        return [reading for reading in readings if reading is not None]

    def refresh(self) -> None:
        """List our domains for ``known`` and ``reading``; this waits while libvirt ends any domain."""
        with self._call(f"list the domains of {self.uri}") as line:
            listed = {domain.UUIDString(): domain for domain in line.raw.listAllDomains(0)}
            now_s = self._clock.monotonic_s()
            ours = [(u, d) for u, d in listed.items() if _unless_gone(partial(self._is_listed, d, now_s))]
            line.handles = dict(ours)
        self._parameters.keep(listed)
        self._carries_metadata.keep(listed)
        self._known = dict(sorted(((uuid, str(domain.name())) for uuid, domain in ours), key=lambda item: item[1]))

    def known(self) -> dict[str, str]:
        """Return UUID and name of each of our domains as last listed, in order of names."""
        return dict(self._known)

    def reading(self, uuid: str) -> CpuReading | None:
        """Return the CPU counter of one domain, None if it is gone; asks no QEMU, waits for no other domain."""
        with self._call(f"read domain {uuid}") as line:
            return _unless_gone(partial(self._reading, line, uuid))

    def ping(self) -> None:
        """Return if the host answers at all."""
        with self._call(f"reach {self.uri}") as line:
            line.raw.getLibVersion()

    def watch(self, on_event: Callable[[LifecycleEvent], None], on_lost: Callable[[], None]) -> None:
        """Call ``on_event`` for each lifecycle event of any domain, and ``on_lost`` once when the host falls away.

        Both are called in libvirt's event thread and must return at once. After ``on_lost`` nothing comes any more:
        open a new connection, watch it, and list everything again.
        """

        def closed(_conn: Any, reason: int, _opaque: None) -> None:
            if reason != libvirt.VIR_CONNECT_CLOSE_REASON_CLIENT:
                on_lost()

        with _translated(f"watch {self.uri}"):
            with _where_supported():
                self._lines.first.registerCloseCallback(closed, None)
            self._listen(on_event)

    def addresses(self, name: str, rule: Rule) -> tuple[Candidate, ...]:
        """Return where the domain may be reached, the best first; nothing where its source knows nothing yet.

        Only the agent asks the guest itself, which may take long.
        """
        with self._call(f"ask for the address of {name}") as line:
            domain = line.raw.lookupByName(name)
            nics = nics_in(domain.XMLDesc(0), rule.libvirt_network)
            try:
                return ranked(self._told(line, domain, nics, rule.source), nics, rule)
            except libvirt.libvirtError as error:
                if error.get_error_code() in _NO_ADDRESS_YET:
                    return ()
                raise

    def disk_troubles(self, name: str) -> tuple[DiskTrouble, ...]:
        """Return which disks of a running or paused domain cannot be read or written, in order of names.

        QEMU is asked: a frozen one holds this up.
        """
        with self._call(f"ask for the disk errors of {name}") as line:
            domain = line.raw.lookupByName(name)
            errors, sources = domain.diskErrors(), disk_sources(domain.XMLDesc(0))
            return tuple(
                DiskTrouble(disk, sources.get(disk, ""), error == libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE)
                for disk, error in sorted(errors.items())
                if error != libvirt.VIR_DOMAIN_DISK_ERROR_NONE
            )

    def host_cpus(self) -> int:
        """Return how many CPUs the host has."""
        with self._call(f"ask {self.uri} for its CPUs") as line:
            return int(line.raw.getInfo()[2])

    def host_cpu(self) -> HostCpu | None:
        """Return the host's idle counter, None where the driver has none; no QEMU is asked (0.3 ms)."""
        with self._call(f"ask {self.uri} for its idle CPUs") as line:
            with _where_supported():
                spent = line.raw.getCPUStats(libvirt.VIR_NODE_CPU_STATS_ALL_CPUS)
                idle_s = (spent["idle"] + spent.get("iowait", 0)) / NANOSECONDS
                return HostCpu(int(line.raw.getInfo()[2]), idle_s, self._clock.monotonic_s())
            return None

    def free_memory_bytes(self) -> int:
        """Return the memory that new domains could take: what is free, and what only caches files."""
        with self._call(f"ask {self.uri} for its memory") as line:
            with _where_supported():
                kib = line.raw.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
                return int(sum(kib.get(part, 0) for part in ("free", "buffers", "cached"))) * 1024
            return int(line.raw.getFreeMemory())

    def host_facts(self) -> HostFacts:
        """Return versions, CPU model and domain types of the host."""
        with self._call(f"ask {self.uri} for its capabilities") as line:
            capabilities = line.raw.getCapabilities()
            return HostFacts(
                libvirt=str(line.raw.getLibVersion()),
                hypervisor=str(line.raw.getVersion()),
                cpu_model=cpu_model(capabilities),
                domain_types=domain_types(capabilities),
            )

    def total_memory_bytes(self) -> int:
        """Return the memory that the host has."""
        with self._call(f"ask {self.uri} for its memory") as line:
            return int(line.raw.getInfo()[1]) * 1024 * 1024

    def definition(self, name: str) -> str:
        """Return a domain's definition as XML: what runs, or what is defined where nothing does."""
        with self._call(f"read the definition of {name}") as line:
            return str(line.raw.lookupByName(name).XMLDesc(0))

    def networks(self) -> list[tuple[str, bool]]:
        """Return the definition of every network of the host, ours or not, and whether it is active."""
        with self._call(f"list the networks of {self.uri}") as line:
            look = lambda net: (str(net.XMLDesc(0)), bool(net.isActive()))  # noqa: E731
            found = (_unless_gone(partial(look, net)) for net in line.raw.listAllNetworks(0))
            return [network for network in found if network is not None]

    def leases(self, network: str) -> list[tuple[str, str]]:
        """Return MAC and DHCP client identifier (as hex with colons) of each lease of an active network."""
        with self._call(f"read the leases of network {network}") as line:
            found = line.raw.networkLookupByName(network).DHCPLeases()
            return [(str(lease["mac"]), str(lease.get("clientid") or "")) for lease in found]

    # --- changing a domain -----------------------------------------------------------------------------------

    # Note [A name may change hands]
    # Between a look and a call somebody may undefine a domain and define another under its name. So whatever changes a
    # domain is told its UUID, and asks libvirt by that alone; libvirt's handles are looked up by it too. The name is
    # for people, for the rule of what we may touch, and to leave alone what was renamed. ``define``, ``restore`` and
    # ``run_once`` make a domain: libvirt itself refuses a name that another UUID has, and a UUID of another name.

    def define(self, xml: str) -> str:
        """Define, or redefine, a domain after libvirt has checked the definition; return its UUID."""
        name = name_in_xml(xml)
        with self._call(f"define {name}") as line:
            self._refuse_foreign(line, f"define {name}", name)
            return str(line.raw.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE).UUIDString())

    def start(self, name: str, uuid: str) -> None:
        """Start a defined domain; one that runs already is no error."""
        with self._own(name, uuid, "start") as domain:
            _unless_so_already(domain.create, lambda: bool(domain.isActive()))

    def shutdown(self, name: str, uuid: str) -> None:
        """Ask the guest to shut down, as its power button would; a stopped one is no error."""
        with self._own(name, uuid, "shut down") as domain:
            _unless_so_already(domain.shutdown, lambda: not domain.isActive())

    def shutdown_by_agent(self, name: str, uuid: str) -> bool:
        """Ask the guest to shut down through its agent; return whether it has one that listens.

        Returns when it is off, or after up to a minute.

        Raises:
            HypervisorError: it was not off by then; it may be shutting down all the same.
        """
        with self._own(name, uuid, "shut down") as domain:
            if not has_agent(domain.XMLDesc(0)):
                return False
            domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT)
            return True

    def destroy(self, name: str, uuid: str) -> None:
        """End the domain at once; a stopped one is no error. A frozen QEMU takes 12 s to end."""
        with self._own(name, uuid, "destroy") as domain:
            _unless_so_already(domain.destroy, lambda: not domain.isActive())

    def undefine(self, name: str, uuid: str) -> None:
        """Remove the definition and what belongs to it: a saved memory, snapshots' metadata, NVRAM."""
        with self._own(name, uuid, "undefine") as domain:
            try:
                domain.undefineFlags(_UNDEFINE_ALL)
            except libvirt.libvirtError as error:
                if error.get_error_code() not in _UNKNOWN_FLAG:
                    raise
                domain.undefineFlags(_UNDEFINE_BASIC)  # a driver without NVRAM or checkpoints

    def suspend(self, name: str, uuid: str) -> None:
        """Pause the domain in memory."""
        with self._own(name, uuid, "suspend") as domain:
            domain.suspend()

    def resume(self, name: str, uuid: str) -> None:
        """Let a paused domain go on; a running one is no error."""
        with self._own(name, uuid, "resume") as domain:
            _unless_so_already(domain.resume, lambda: domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING)

    def set_time(self, name: str, uuid: str, timeout_s: float) -> bool:
        """Set the guest's clock to this machine's through its agent; return whether it has one that listens.

        Raises:
            HypervisorError: the agent did not say within ``timeout_s`` that it has; it may have all the same.
        """
        with self._own(name, uuid, "set the clock of") as domain:
            if not has_agent(domain.XMLDesc(0)):
                return False
            domain.agentSetResponseTimeout(max(1, math.ceil(timeout_s)), 0)
            part_s, whole_s = math.modf(self._clock.epoch_s())
            domain.setTime({"seconds": int(whole_s), "nseconds": int(part_s * NANOSECONDS)}, 0)
            return True

    def save_to(self, name: str, uuid: str, path: str) -> None:
        """Save the running domain's memory to a file on the host, uncompressed where libvirt is set so, and end it."""
        with self._own(name, uuid, "save the memory of") as domain:
            domain.saveFlags(path, None, libvirt.VIR_DOMAIN_SAVE_RUNNING)

    def restore(self, name: str, path: str) -> None:
        """Run the domain that the save file, or pipe, at ``path`` on the host describes; ``name`` is what it says."""
        with self._call(f"restore {name}") as line:
            self._refuse_foreign(line, f"restore {name}", name)
            line.raw.restoreFlags(path, None, 0)

    def set_link(self, name: str, uuid: str, is_up: bool) -> None:
        """Plug the running domain's network in, or pull it out."""
        with self._own(name, uuid, "set the link of") as domain:
            xml = interface_with_link(domain.XMLDesc(0), is_up)
            domain.updateDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def save(self, name: str, uuid: str) -> None:
        """Save the domain's memory to disk and end it; it is next started from there, running. A saved one is fine."""
        with self._own(name, uuid, "save the memory of") as domain:
            save = partial(domain.managedSave, libvirt.VIR_DOMAIN_SAVE_RUNNING)
            _unless_so_already(save, lambda: bool(domain.hasManagedSaveImage(0)) and not domain.isActive())

    def set_metadata(self, name: str, uuid: str, metadata: Mapping[str, str]) -> None:
        """Replace our metadata element, in the running domain and in its definition; without attributes, remove it."""
        text = metadata_element(metadata) if metadata else None
        with self._own(name, uuid, "write the metadata of") as domain:
            _again_if_it_stopped(partial(_write_metadata, domain, text))

    def set_quota(self, name: str, uuid: str, cpu_quota: float | None) -> None:
        """Let each vCPU use this share of one CPU (0.01 to 1), None for all of it: live where it runs, else defined."""
        if cpu_quota is not None and not 0.01 <= cpu_quota <= 1:
            raise HypervisorError(f"cpu_quota must be in [0.01, 1], or None for no limit; got {cpu_quota}")
        quota_us = -1 if cpu_quota is None else round(cpu_quota * QUOTA_PERIOD_US)
        with self._own(name, uuid, "set the CPU quota of") as domain:
            domain.setSchedulerParametersFlags({"vcpu_period": QUOTA_PERIOD_US, "vcpu_quota": quota_us}, 0)
            self._parameters.forget(domain.UUIDString())

    def run_once(self, xml: str, deadline_s: float) -> str | None:
        """Run a transient domain until it stops; it is gone after the call, whatever happened.

        Returns:
            Why it stopped (``shutdown`` when the guest powered itself off, ``failed``, ``crashed``, …), None when it
            still ran after ``deadline_s``.
        """
        name = name_in_xml(xml)
        ended, changed = dict[str, str](), threading.Condition()

        def note(event: LifecycleEvent) -> None:
            if event.kind in _ENDS:
                with changed:
                    ended[event.uuid] = event.detail
                    changed.notify()

        with self._call(f"run {name}") as line:
            self._refuse_foreign(line, f"run {name}", name)
            self._listen(note)
            uuid = ""
            try:
                # by UUID: the end of a run before, of the same name, may be heard only now
                uuid = str(line.raw.createXML(xml, libvirt.VIR_DOMAIN_START_VALIDATE).UUIDString())
                with changed:
                    changed.wait_for(lambda: uuid in ended, deadline_s)
                    return ended.get(uuid)
            finally:
                self._listeners.remove(note)
                if uuid:
                    with suppress(DomainGoneError):  # the usual case: it has ended by itself
                        self.destroy(name, uuid)
                elif name.startswith(PROBE_PREFIX):
                    self.sweep(name)

    def sweep(self, name: str) -> None:
        """End the probe domain of this name, which a killed process of ours left; any other name is refused."""
        if not name.startswith(PROBE_PREFIX):
            raise HypervisorError(f"refused to sweep {name}: only what begins with {PROBE_PREFIX} is a probe")
        with suppress(DomainGoneError):
            with self._call(f"look for {name}") as line:
                uuid = str(line.raw.lookupByName(name).UUIDString())
            self.destroy(name, uuid)

    # --- the network -----------------------------------------------------------------------------------------

    def has_network(self, name: str) -> bool:
        """Return whether the host has an active network of this name."""
        with self._call(f"ask for network {name}") as line:
            network = _network(line, name)
            return network is not None and bool(network.isActive())

    def ensure_network(self, xml: str, name: str) -> None:
        """Make the network of this name be as ``xml`` says, and active; another's network is never touched.

        Raises:
            HypervisorError: the name belongs to a network that is not ours, or ours differs and domains use it.
        """
        with self._call(f"set up network {name}") as line:
            network = self._own_network(line, name)
            if network is not None and not _fit(network, xml):
                _retire(network)
                network = None
            if network is None:
                network = line.raw.networkDefineXML(xml)
            _start_network(line, network, xml)

    def remove_network(self, name: str) -> None:
        """Stop and undefine our network; one that is not there is no error.

        Raises:
            HypervisorError: it is not ours, or a domain uses it: another installation's, perhaps.
        """
        with self._call(f"remove network {name}") as line:
            network = self._own_network(line, name)
            if network is not None:
                _refuse_used(line, name)
                _unless_so_already(network.destroy, lambda: not network.isActive())
                network.undefine()

    # --- storage ---------------------------------------------------------------------------------------------

    def image(self, path: str) -> ImageFacts | None:
        """Return what the host has at ``path``, an absolute one; None if there is nothing. It is only read."""
        with self._call(f"look at disk image {path}") as line:
            return _again_if_a_pool_went(partial(storage.image, line.raw, self._pool, path), LOOKS)

    def make_volume(self, volume: Volume) -> None:
        """Make a volume in our pool, and the pool if need be; one of the same name is replaced."""
        if self._pool is None:
            raise HypervisorError(f"cannot make volume {volume.name}: no pool was named for {self.uri}")
        with self._call(f"make volume {volume.name}") as line:
            storage.make(line.raw, self._pool, volume)

    def volumes(self) -> list[SeenVolume]:
        """Return the volumes of our pool, in order of names; nothing where there is no pool."""
        with self._call(f"list the volumes of {self.uri}") as line:
            return [] if self._pool is None else storage.volumes(line.raw, self._pool)

    def remove_volumes(self, is_to_go: Callable[[str], bool]) -> None:
        """Remove the volumes of our pool whose names are to go; none is no error."""
        with self._call(f"remove volumes of {self.uri}") as line:
            if self._pool is not None:
                storage.remove(line.raw, self._pool, is_to_go)

    def remove_pool(self) -> bool:
        """Remove our pool with its directory, unless volumes are left in it; return whether it is gone."""
        with self._call(f"remove the pool of {self.uri}") as line:
            return self._pool is None or storage.remove_pool(line.raw, self._pool)

    def owners(self, without: str = "") -> tuple[frozenset[str], frozenset[str]]:
        """Return the UUIDs of all domains of the host, and every file that their disks name: foreign ones' too.

        The domain with the UUID ``without`` is left out.
        """
        with self._call(f"ask {self.uri} whose its disks are") as line:
            domains = [domain for domain in line.raw.listAllDomains(0) if domain.UUIDString() != without]
            texts = [_unless_gone(partial(domain.XMLDesc, libvirt.VIR_DOMAIN_XML_INACTIVE)) for domain in domains]
            files = frozenset[str]().union(*(files_of(text) for text in texts if text is not None))
            return frozenset(domain.UUIDString() for domain in domains), files

    def reader(self) -> tuple[int, int]:
        """Return user and group that QEMU runs as."""
        with self._call(f"ask {self.uri} for its capabilities") as line:
            return reader(line.raw.getCapabilities())

    def agent_host_name(self, name: str, timeout_s: float) -> str | None:
        """Return the guest's host name as QEMU's guest agent tells it, None while the agent does not answer."""
        with self._call(f"ask the guest agent of {name}") as line:
            domain = line.raw.lookupByName(name)
            try:
                domain.agentSetResponseTimeout(max(1, math.ceil(timeout_s)), 0)
                answer = domain.guestInfo(libvirt.VIR_DOMAIN_GUEST_INFO_HOSTNAME, 0)
            except libvirt.libvirtError as error:
                if error.get_error_code() in _NO_ADDRESS_YET:
                    return None
                raise
            return plain_name(str(answer.get("hostname", "")))

    # --- below: how ------------------------------------------------------------------------------------------

    @contextmanager
    def _call(self, what: str) -> Iterator[Line]:
        """Give this thread's line to the host, with errors translated."""
        with _translated(what), self._lines.use() as line:
            yield line

    @contextmanager
    def _own(self, name: str, uuid: str, verb: str) -> Iterator[Any]:
        """Give the domain if it is ours, with errors translated; see Note [A name may change hands]."""
        with self._call(f"{verb} {name}") as line:
            domain = line.raw.lookupByUUIDString(uuid)
            if domain.name() != name:
                raise HypervisorError(f"refused to {verb} {name}: it is named {domain.name()} now")
            if not (self._is_allowed(name) or _metadata(domain)):
                raise HypervisorError(_foreign(f"{verb} {name}"))
            yield domain

    def _refuse_foreign(self, line: Line, what: str, name: str) -> None:
        """Refuse a name that is neither allowed nor that of an existing domain of ours."""
        if self._is_allowed(name):
            return
        try:
            is_ours = bool(_metadata(line.raw.lookupByName(name)))
        except libvirt.libvirtError as error:
            raise HypervisorError(_foreign(what)) from error
        if not is_ours:
            raise HypervisorError(_foreign(what))

    def _is_allowed(self, name: str) -> bool:
        return self._may_touch(name) or name.startswith(PROBE_PREFIX)

    def _is_listed(self, domain: Any, now_s: float) -> bool:
        name, uuid = domain.name(), domain.UUIDString()
        if name.startswith(PROBE_PREFIX):
            return False
        return self._may_touch(name) or self._carries_metadata.get(uuid, now_s, lambda: bool(_metadata(domain)))

    def _facts(self, domain: Any, record: Mapping[str, int], persistent: set[str]) -> DomainFacts | None:
        name, uuid = domain.name(), domain.UUIDString()
        if name.startswith(PROBE_PREFIX):
            return None
        metadata = _metadata(domain)
        if not metadata and not self._may_touch(name):
            return None
        state, reason = record.get("state.state", -1), record.get("state.reason", 0)
        power, is_persistent = _NAMES.state(state), uuid in persistent
        why = _NAMES.reason(state, reason)
        may_be_saved = power is DomainState.SHUTOFF and (bool(metadata) or why == SAVED)
        is_saved = may_be_saved and bool(domain.hasManagedSaveImage(0))  # libvirt forgets why it is off, not the file
        is_new_clone = (metadata.get("cloned"), metadata.get("phase")) == ("1", Phase.BOOTING)
        is_linked = not is_new_clone or power is not DomainState.RUNNING or has_link(domain.XMLDesc(0))
        return DomainFacts(name, uuid, power, why, is_persistent, metadata, is_saved, is_linked)

    def _facts_of(self, domain: Any) -> DomainFacts | None:
        state, reason = domain.state()
        persistent = {domain.UUIDString()} if domain.isPersistent() else set()
        return self._facts(domain, {"state.state": state, "state.reason": reason}, persistent)

    def _reading(self, line: Line, uuid: str) -> CpuReading:
        domain = line.handles.get(uuid) or line.handles.setdefault(uuid, line.raw.lookupByUUIDString(uuid))
        now_s, name = self._clock.monotonic_s(), str(domain.name())
        code, _max_kib, _kib, vcpus, _cpu_ns = domain.info()
        state = _NAMES.state(code)
        unknown = CpuReading(name, uuid, state, None, None, now_s)
        if state is not DomainState.RUNNING:
            code, reason = domain.state()
            return replace(unknown, state=_NAMES.state(code), state_reason=_NAMES.reason(code, reason))
        try:
            with _translated(f"read the CPU time of {name}"):
                parameters = self._parameters.get(uuid, now_s, lambda: _scheduler_parameters(domain))
                cpu_time_s, read_at_s = _cpu_time_s(domain), self._clock.monotonic_s()
        except (HypervisorLostError, DomainGoneError):
            raise
        except HypervisorError:
            return unknown  # it starts or stops at this moment, and its cgroup is half there
        allotted = allotted_cpus(vcpus, parameters)
        return CpuReading(name, uuid, state, cpu_time_s, allotted, read_at_s, is_limited(parameters))

    def _own_network(self, line: Line, name: str) -> Any | None:
        network = _network(line, name)
        if network is not None and network.UUIDString() != network_uuid(name):
            raise HypervisorError(
                f"network {name!r} on {self.uri} is not ours: its UUID is {network.UUIDString()}, ours would be "
                f"{network_uuid(name)}; give [network] another name, or remove that network"
            )
        return network

    def _told(self, line: Line, domain: Any, nics: tuple[Nic, ...], source: Source) -> list[Candidate]:
        match source:
            case Source.LEASE:
                return [each for nic in nics if nic.network for each in _leases(line, nic)]
            case Source.ARP if self.uri.startswith("qemu:///"):
                return neighbours({nic.mac for nic in nics}, TABLE.read_text(encoding="ascii"))
            case Source.ARP:
                return told_by_agent(domain.interfaceAddresses(libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP), nics)
            case Source.AGENT:
                told = domain.interfaceAddresses(libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT)
                return told_by_agent(told, nics)

    def _listen(self, listener: Callable[[LifecycleEvent], None]) -> None:
        """Add a listener; libvirt itself takes one callback a kind of event."""
        self._listeners.append(listener)
        if not self._callbacks:
            register = self._lines.first.domainEventRegisterAny
            self._callbacks.append(register(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_lifecycle, None))
            self._callbacks.append(register(None, libvirt.VIR_DOMAIN_EVENT_ID_TUNABLE, self._on_tunable, None))

    def _on_lifecycle(self, _conn: Any, domain: Any, event: int, detail: int, _opaque: None) -> None:
        seen = LifecycleEvent(domain.name(), domain.UUIDString(), *_NAMES.event(event, detail))
        if seen.kind == "started":
            self._parameters.forget(seen.uuid)  # its quota is what its definition says
        for listener in tuple(self._listeners):
            listener(seen)

    def _on_tunable(self, _conn: Any, domain: Any, _changes: Any, _opaque: None) -> None:
        self._parameters.forget(domain.UUIDString())


# --- connecting, and libvirt's event loop ------------------------------------------------------------------------

_loop_lock = threading.Lock()
_loop_threads: list[threading.Thread] = []


def _open(uri: str, is_read_only: bool) -> Any:
    _start_event_loop()
    try:
        raw = libvirt.openReadOnly(uri) if is_read_only else libvirt.open(uri)
        with _where_supported():
            raw.setKeepAlive(KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT)
    except libvirt.libvirtError as error:
        raise HypervisorLostError(plain(f"cannot connect to {uri}: {error}")) from error
    return raw


def _close(raw: Any) -> None:
    with _already_lost_is_fine():
        raw.close()


def _start_event_loop() -> None:
    """Start libvirt's event loop before the first connection, once in a process."""
    with _loop_lock:
        if _loop_threads:
            return
        libvirt.registerErrorHandler(lambda _opaque, _error: None, None)  # errors are raised; stderr is for logs
        libvirt.virEventRegisterDefaultImpl()
        thread = threading.Thread(target=_run_event_loop, name="libvirt-events", daemon=True)
        _loop_threads.append(thread)
        thread.start()


def _run_event_loop() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


# --- errors ------------------------------------------------------------------------------------------------------


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turn libvirt's errors into ours, with libvirt's own words, in which a guest's may be."""
    try:
        yield
    except libvirt.libvirtError as error:
        raise _error_class(error)(plain(f"cannot {what}: {error}")) from error


def _error_class(error: Any) -> type[HypervisorError]:
    code = error.get_error_code()
    if code == libvirt.VIR_ERR_NO_DOMAIN:
        return DomainGoneError
    if code in _BUSY:
        return HypervisorBusyError
    if code in _LOST or error.get_error_domain() == libvirt.VIR_FROM_RPC:
        return HypervisorLostError
    return HypervisorError


@contextmanager
def _where_supported() -> Iterator[None]:
    """Go on where the driver lacks the function: ``test:///`` has no keepalive and cannot be lost."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
            raise


@contextmanager
def _already_lost_is_fine() -> Iterator[None]:
    try:
        yield
    except libvirt.libvirtError:
        return  # what we let go of is gone already


def _unless_gone(read: Callable[[], _T | None]) -> _T | None:
    """Return what ``read`` does, None if what it reads (domain, network, volume) vanished since it was listed."""
    try:
        return read()
    except DomainGoneError:
        return None
    except libvirt.libvirtError as error:
        if error.get_error_code() in _GONE:
            return None
        raise


def _unless_so_already(change: Callable[[], object], is_so: Callable[[], bool]) -> None:
    """Make a change; libvirt's refusal is no error when things are as wanted."""
    try:
        change()
    except libvirt.libvirtError:
        if not is_so():
            raise


def _again_if_it_stopped(write: Callable[[], None]) -> None:
    """Write twice if need be: the domain may stop, or start, between the look and the call."""
    try:
        write()
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
            raise
        write()


def _again_if_a_pool_went(look: Callable[[], ImageFacts | None], looks: int) -> ImageFacts | None:
    """Return what ``look`` does, None if the file was removed since it was listed; a pool may be closed meanwhile."""
    try:
        return _unless_gone(look)
    except libvirt.libvirtError as error:
        if looks <= 1 or error.get_error_code() not in _POOL_GONE:
            raise
    return _again_if_a_pool_went(look, looks - 1)


def _foreign(what: str) -> str:
    return f"refused to {what}: it matches no group's prefix and does not carry our metadata"


# --- what libvirt gives ------------------------------------------------------------------------------------------


def _metadata(domain: Any) -> dict[str, str]:
    """Return the attributes of our element; a domain without one has none."""
    try:
        return parse_metadata(domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, METADATA_URI, 0))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_METADATA:
            return {}
        raise


def _refuse_used(line: Line, network: str) -> None:
    listed = [(d.name(), _unless_gone(d.XMLDesc)) for d in line.raw.listAllDomains()]
    users = sorted(name for name, xml in listed if xml is not None and network in networks_of(xml))
    if users:
        raise HypervisorError(f"network {network} is in use by {', '.join(users)}; it is left as it is")


def _write_metadata(domain: Any, text: str | None) -> None:
    """Write to the running domain and to its definition, as far as there are."""
    live = libvirt.VIR_DOMAIN_AFFECT_LIVE if domain.isActive() else 0
    config = libvirt.VIR_DOMAIN_AFFECT_CONFIG if domain.isPersistent() else 0
    domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, text, METADATA_PREFIX, METADATA_URI, live | config)


def _cpu_time_s(domain: Any) -> float:
    """Return the CPU time of QEMU and its vCPUs, from the cgroup (nanoseconds), else from ``info`` (10 ms steps)."""
    try:
        return float(domain.getCPUStats(True)[0]["cpu_time"] / NANOSECONDS)
    except libvirt.libvirtError as error:
        if error.get_error_code() not in _NOT_HERE:
            raise
    return float(domain.info()[4] / NANOSECONDS)


def _scheduler_parameters(domain: Any) -> Mapping[str, int | float]:
    """Return the quotas in force; without a cgroup for CPU none can be."""
    try:
        return dict(domain.schedulerParameters())
    except libvirt.libvirtError as error:
        if error.get_error_code() in _NOT_HERE:
            return {}
        raise


def _leases(line: Line, nic: Nic) -> list[Candidate]:
    network = _network(line, nic.network)
    leases = None if network is None else _unless_gone(partial(network.DHCPLeases, nic.mac))
    return [] if leases is None else leased(nic.mac, leases)


def _network(line: Line, name: str) -> Any | None:
    return _unless_gone(partial(line.raw.networkLookupByName, name))


def _fit(network: Any, xml: str) -> bool:
    """Return whether the network is as ``xml`` says; reservations that only are missing are added while it runs."""
    have, want = shape(network.XMLDesc(0)), shape(xml)
    if have == want:
        return True
    if replace(have, hosts=want.hosts) != want or not have.hosts < want.hosts:
        return False
    where = libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG
    if network.isActive():
        where |= libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE
    for mac, address in sorted(want.hosts - have.hosts):
        command, section = libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST
        network.update(command, section, -1, host_xml(mac, address), where)
    return True


def _start_network(line: Line, network: Any, xml: str) -> None:
    """Start a network; an older release's whose DNS finds its port taken is started without."""
    network.setAutostart(False)
    try:
        _unless_so_already(network.create, lambda: bool(network.isActive()))
    except libvirt.libvirtError:
        if not has_dns(network.XMLDesc(0)):
            raise
        line.raw.networkDefineXML(xml).create()


def _retire(network: Any) -> None:
    """Stop a network that differs from what is wanted, unless domains use it."""
    if network.isActive():
        users = _users(network)
        if users:
            raise HypervisorError(
                f"network {network.name()!r} differs from the configuration and is used by {users} interfaces; "
                "stop those domains first (make down), or give [network] another name"
            )
        network.destroy()
    network.undefine()


def _users(network: Any) -> int:
    with _where_supported():
        return len(network.listAllPorts())
    return 0
