"""What libvirt shows of a domain, as plain values, and our element in its ``<metadata>``.

Nothing here talks to libvirt: ``common.hypervisor`` fills these values in.
"""

import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from common.errors import HypervisorError
from common.plain import plain

METADATA_URI: Final = "urn:libvirt-autoscaler:domain:1"
METADATA_TAG: Final = "member"
METADATA_PREFIX: Final = "autoscaler"
AGENT_CHANNEL: Final = "org.qemu.guest_agent.0"
MAX_VALUE: Final = 8192  # of one attribute of ours: a path fits in
PROBE_PREFIX: Final = "autoscaler-probe-"


class DomainState(StrEnum):
    """What a domain is doing, in libvirt's sense."""

    RUNNING = "running"
    PAUSED = "paused"
    SHUTOFF = "shutoff"
    CRASHED = "crashed"
    STOPPING = "stopping"  # asked to shut down, still running
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class DomainFacts:
    """One domain at one moment; ``metadata`` holds the attributes of our element, nothing if it has none.

    ``has_saved_state``: libvirt keeps its memory on disk, and starts it from there; asked of ours that are off.
    ``has_link``: its network is plugged in; asked of clones that do not serve yet, and taken to be so of all others.
    """

    name: str
    uuid: str
    state: DomainState
    state_reason: str
    is_persistent: bool
    metadata: Mapping[str, str] = field(default_factory=dict)
    has_saved_state: bool = False
    has_link: bool = True


@dataclass(frozen=True, slots=True)
class DiskTrouble:
    """What keeps a domain's disk from being read or written: ``is_full`` where the host has no space for it.

    ``disk`` is the guest's name for it, such as ``vda``; ``path`` is its file or device on the host, empty where it
    has neither.
    """

    disk: str
    path: str
    is_full: bool


@dataclass(frozen=True, slots=True)
class CpuReading:
    """A domain's CPU counter, read at ``read_at_s`` (monotonic).

    ``allotted_cpus`` is vCPUs x quota; None where a value is unknown. ``is_limited``: a quota is in force.
    ``state_reason``: libvirt's, of a domain that does not run.
    """

    name: str
    uuid: str
    state: DomainState
    cpu_time_s: float | None
    allotted_cpus: float | None
    read_at_s: float = 0.0
    is_limited: bool = False
    state_reason: str = "unknown"


@dataclass(frozen=True, slots=True)
class HostCpu:
    """A host's idle counter, read at ``read_at_s`` (monotonic): seconds that its CPUs were idle, all together."""

    cpus: int
    idle_s: float
    read_at_s: float


@dataclass(frozen=True, slots=True)
class LifecycleEvent:
    """What libvirt said about a domain the moment it happened.

    ``kind``: started, stopped, crashed, failed, paused, resumed, shutdown, defined, undefined, panicked. ``detail`` is
    libvirt's reason, such as ``io-error`` of ``paused`` or ``destroyed`` of ``stopped``.
    """

    name: str
    uuid: str
    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What a host is made of, as far as it decides about acceleration."""

    libvirt: str
    hypervisor: str
    cpu_model: str
    domain_types: frozenset[str]


def metadata_element(metadata: Mapping[str, str]) -> str:
    """Return our metadata element with these attributes, as XML text without its namespace.

    libvirt adds the namespace and prefix itself. What XML cannot hold is made plain: libvirt would refuse all of it.

    >>> metadata_element({"group": "web", "phase": "ready"})
    '<member group="web" phase="ready" />'
    """
    return ET.tostring(
        ET.Element(METADATA_TAG, {k: plain(v, MAX_VALUE) for k, v in metadata.items()}), encoding="unicode"
    )


def parse_metadata(text: str) -> dict[str, str]:
    """Return the attributes of our metadata element; foreign namespaces are left out.

    >>> parse_metadata('<member xmlns="urn:libvirt-autoscaler:domain:1" group="web"/>')
    {'group': 'web'}
    """
    element = ET.fromstring(text)  # noqa: S314 - libvirt has parsed and rewritten it
    return {key: value for key, value in element.attrib.items() if not key.startswith("{")}


def name_in_xml(text: str) -> str:
    """Return the name that a domain's definition gives it.

    Raises:
        HypervisorError: the text is no XML, or names no domain.
    """
    try:
        name = ET.fromstring(text).findtext("name")  # noqa: S314 - our own definition, built with ElementTree
    except ET.ParseError as error:
        raise HypervisorError(f"a domain's definition is not XML: {error}") from error
    if not name:
        raise HypervisorError("a domain's definition must have a <name>")
    return name


def interface_with_link(text: str, is_up: bool) -> str:
    """Return the first network interface of a domain's definition with its link up or down.

    Raises:
        HypervisorError: it has none.
    """
    interface = ET.fromstring(text).find("devices/interface")  # noqa: S314 - libvirt's own text
    if interface is None:
        raise HypervisorError("the domain has no network interface")
    link = interface.find("link")
    link = ET.SubElement(interface, "link") if link is None else link
    link.set("state", "up" if is_up else "down")
    return ET.tostring(interface, encoding="unicode")


def has_link(text: str) -> bool:
    """Return whether the first network interface of a domain's definition is plugged in; a domain without one is.

    >>> has_link("<domain><devices><interface><link state='down'/></interface></devices></domain>")
    False
    >>> has_link("<domain><devices><interface/></devices></domain>")
    True
    """
    link = ET.fromstring(text).find("devices/interface/link")  # noqa: S314 - libvirt's own text
    return link is None or link.get("state") != "down"


def has_agent(text: str) -> bool:
    """Return whether a running domain's definition shows a guest agent that listens at its channel.

    >>> has_agent("<domain><devices><channel><target name='org.qemu.guest_agent.0' state='connected'/></channel>"
    ...           "</devices></domain>")
    True
    """
    targets = ET.fromstring(text).iterfind("devices/channel/target")  # noqa: S314 - libvirt's own text
    return any(each.get("name") == AGENT_CHANNEL and each.get("state") == "connected" for each in targets)


def allotted_cpus(vcpus: int, parameters: Mapping[str, int | float]) -> float:
    """Return how many CPUs a domain may use: vCPUs x their quota, bounded by the quota of the whole domain.

    Args:
        vcpus: Online vCPUs, >= 0.
        parameters: libvirt's scheduler parameters; a quota <= 0, or of a full period and more, is no limit.

    >>> allotted_cpus(2, {"vcpu_quota": 50000, "vcpu_period": 100000})
    1.0
    >>> allotted_cpus(2, {"vcpu_quota": -1, "vcpu_period": 100000})
    2.0
    """
    each = min(_share(parameters, "vcpu"), 1.0)
    return min(vcpus * each, _share(parameters, "global"))


def is_limited(parameters: Mapping[str, int | float]) -> bool:
    """Return whether a quota is in force, be it one of the full period.

    >>> is_limited({"vcpu_quota": 100000, "vcpu_period": 100000}), is_limited({"vcpu_quota": -1})
    (True, False)
    """
    return any(math.isfinite(_share(parameters, scope)) for scope in ("vcpu", "global"))


def domain_types(capabilities: str) -> frozenset[str]:
    """Return the domain types (``kvm``, ``qemu``, …) that a host's capabilities offer for its own architecture."""
    root = ET.fromstring(capabilities)  # noqa: S314 - libvirt's own text
    own = root.findtext("host/cpu/arch")
    archs = [arch for arch in root.iterfind("guest/arch") if own is None or arch.get("name") == own]
    return frozenset(domain.get("type", "") for arch in archs for domain in arch.iterfind("domain"))


def cpu_model(capabilities: str) -> str:
    """Return vendor and model of a host's CPU, as far as its capabilities say."""
    cpu = ET.fromstring(capabilities).find("host/cpu")  # noqa: S314 - libvirt's own text
    parts = [] if cpu is None else [cpu.findtext(tag) or "" for tag in ("arch", "vendor", "model")]
    return " ".join(part for part in parts if part)


def _share(parameters: Mapping[str, int | float], scope: str) -> float:
    quota, period = parameters.get(f"{scope}_quota", 0), parameters.get(f"{scope}_period", 0)
    return quota / period if quota > 0 and period > 0 else float("inf")


def disk_sources(xml: str) -> dict[str, str]:
    """Return file or device of each disk of a domain's definition by the guest's name for it; others are left out.

    >>> disk_sources("<domain><devices><disk><source file='/d.qcow2'/><target dev='vda'/></disk></devices></domain>")
    {'vda': '/d.qcow2'}
    """
    found: dict[str, str] = {}
    for disk in ET.fromstring(xml).iterfind("./devices/disk"):  # noqa: S314 - libvirt's own text
        source, target = disk.find("source"), disk.find("target")
        path = "" if source is None else source.get("file") or source.get("dev") or ""
        if target is not None and path:
            found[target.get("dev", "")] = path
    return found


def networks_of(xml: str) -> frozenset[str]:
    """Return the names of the libvirt networks that a domain's interfaces are on.

    >>> networks_of("<domain><devices><interface><source network='default'/></interface></devices></domain>")
    frozenset({'default'})
    """
    sources = ET.fromstring(xml).iterfind("./devices/interface/source")  # noqa: S314 - libvirt's own text
    return frozenset(name for source in sources if (name := source.get("network")))
