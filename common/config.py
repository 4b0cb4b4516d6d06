"""``autoscaler.toml``: one file, one class a table, every impossible value refused with a clear sentence.

``common.config_file`` reads and checks the whole file before anything acts on it. The classes hold no behaviour
beyond what follows from the values alone.
"""

import hashlib
import ipaddress
import os.path
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, field_validator, model_validator

from common import names
from common.config_capacity import Burst as Burst
from common.config_capacity import Warm as Warm
from common.config_defaults import Booted, booted, with_defaults
from common.config_image import Image as Image
from common.config_outputs import Metrics as Metrics
from common.config_outputs import Notification as Notification
from common.config_policies import Policy as Policy
from common.config_policies import Predictive as Predictive
from common.config_policies import Schedule as Schedule
from common.config_policies import Step as Step
from common.config_policies import StepRule as StepRule
from common.config_policies import TargetTracking as TargetTracking
from common.config_policies import Threshold as Threshold
from common.config_readiness import Readiness as Readiness
from common.config_table import Positive, Seconds
from common.config_table import Table as Table
from common.endpoint import is_address, is_clash, split_endpoint
from common.services import ALL_SERVICES as ALL_SERVICES
from common.services import OPTIONAL_SERVICES as OPTIONAL_SERVICES
from common.services import SERVICES as SERVICES

MAX_IPC_PATH_BYTES = 107  # sun_path of a Unix socket, less its final NUL
FIRST_SLOT = 10
EVENT_STREAM_IDLE_S = 300.0
TUNNEL_S = 3600.0
HTTP_ONLY = ("retry", "response_timeout_s", "stream_idle_timeout_s")
SILENT_PERIODS = 3

_Tables = TypeVar("_Tables", "dict[str, Host]", "dict[str, Group]")


class System(Table):
    """Where the services live and how often they look."""

    run_dir: str = "/run/libvirt-autoscaler"
    state_dir: str = "/var/lib/libvirt-autoscaler"
    interval_s: float = Field(default=1.0, ge=0.1, le=3600)
    republish_s: Positive = 2.0
    stale_after_s: Positive = 3.5
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    recording_max_bytes: int = Field(default=256 * 1024 * 1024, ge=1024 * 1024)
    recording_max_age_s: float = Field(default=7 * 86400.0, gt=0)

    @model_validator(mode="after")
    def _stale_after_more_than_one_message(self) -> Self:
        if self.stale_after_s <= self.interval_s:
            raise ValueError(
                f"stale_after_s must be greater than interval_s ({self.interval_s}); got {self.stale_after_s}"
            )
        if self.stale_after_s <= self.republish_s:
            raise ValueError(
                f"stale_after_s must be greater than republish_s ({self.republish_s}); got {self.stale_after_s}"
            )
        return self

    @field_validator("run_dir", "state_dir")
    @classmethod
    def _is_a_directory_of_ours(cls, path: str) -> str:
        if not path.startswith("/"):
            raise ValueError("must be an absolute path")
        if not path.isprintable() or set(path) & set(",;#%"):
            raise ValueError("must be printable and without any of ,;#% for HAProxy and supervisord read it too")
        if os.path.normpath(path) in ("/", "//"):
            raise ValueError("must be a directory of its own: it is closed to others, and 'make clean' removes it")
        return path

    @model_validator(mode="after")
    def _state_outlives_the_run_dir(self) -> Self:
        if Path(os.path.normpath(self.state_dir)).is_relative_to(os.path.normpath(self.run_dir)):
            raise ValueError(f"state_dir must not be run_dir, nor in it ({self.run_dir!r}); got {self.state_dir!r}")
        return self

    @property
    def run_path(self) -> Path:
        """Return the directory of sockets, locks and process identifiers."""
        return Path(self.run_dir)

    @property
    def state_path(self) -> Path:
        """Return the directory of images, recordings and the small local stores."""
        return Path(self.state_dir)

    @property
    def silent_after_s(self) -> float:
        """Return after how long nothing is known of who repeats what is: three repetitions did not come."""
        return SILENT_PERIODS * max(self.interval_s, self.republish_s)

    @model_validator(mode="after")
    def _socket_paths_fit(self) -> Self:
        longest = f"{self.run_dir}/control-monitor.sock"
        if len(longest.encode()) > MAX_IPC_PATH_BYTES:
            raise ValueError(
                f"run_dir is too long: the socket path {longest} has {len(longest.encode())} bytes; "
                f"at most {MAX_IPC_PATH_BYTES} are allowed"
            )
        return self


class Bus(Table):
    """How the services reach each other: sockets on this machine, or TCP with CURVE keys.

    ``endpoints`` names, for ``tcp``, where each service publishes, as ``tcp://ADDRESS:PORT``; it answers requests at
    PORT + 1. An optional service without an endpoint is heard on its own machine only. ``keys_dir`` holds the keys that
    ``autoscaler keys`` makes; empty means no encryption, allowed on loopback only.
    """

    transport: Literal["ipc", "tcp"] = "ipc"
    endpoints: dict[str, str] = Field(default_factory=dict)
    keys_dir: str = ""

    @model_validator(mode="after")
    def _tcp_names_every_service(self) -> Self:
        unknown = sorted(set(self.endpoints) - set(ALL_SERVICES))
        if unknown:
            raise ValueError(f"endpoints names unknown services {unknown}; allowed: {', '.join(ALL_SERVICES)}")
        if self.transport == "tcp":
            missing = [name for name in SERVICES if name not in self.endpoints]
            if missing:
                raise ValueError(f"transport 'tcp' needs an endpoint for each service; missing: {', '.join(missing)}")
        for name, endpoint in self.endpoints.items():
            _check_tcp_endpoint(name, endpoint)
        if self.endpoints:
            _check_ports_apart(self.endpoints)
        return self


class Host(Table):
    """One libvirt host. ``accel``: ``auto`` proves KVM with a probe guest before it is used."""

    uri: str = "qemu:///system"
    accel: Literal["auto", "kvm", "tcg"] = "auto"
    call_timeout_s: Positive = 10.0


class Network(Table):
    """The libvirt network of template domains: its slots are fixed pairs of MAC and address.

    ``name_servers``: whom its guests ask for names; None: those that the actuator's machine asks.
    """

    name: str = Field(default="autoscaler", pattern=r"^[a-z][a-z0-9-]{0,30}$")
    bridge: str = Field(default="asbr0", pattern=r"^[a-z][a-z0-9-]{0,14}$")
    subnet: str = "192.168.150.0/24"
    slots: int = Field(default=200, ge=1, le=60000)
    name_servers: tuple[str, ...] | None = Field(default=None, strict=False, max_length=3)

    @field_validator("name_servers")
    @classmethod
    def _name_servers_are_addresses(cls, servers: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for server in servers or ():
            try:
                address = ipaddress.IPv4Address(server)
            except ValueError as error:
                raise ValueError(f"every name server must be an IPv4 address; got {server!r}") from error
            if address.is_loopback or address.is_unspecified:
                raise ValueError(f"{server} would be the guest itself; give an address that guests can reach")
        return servers

    @model_validator(mode="after")
    def _slots_fit_the_subnet(self) -> Self:
        try:
            net = ipaddress.IPv4Network(self.subnet)
        except ValueError as error:
            raise ValueError(f"subnet must be an IPv4 network such as 192.168.150.0/24; {error}") from error
        room = net.num_addresses - FIRST_SLOT - 1
        if self.slots > room:
            raise ValueError(f"slots must be at most {max(room, 0)} in {self.subnet}; got {self.slots}")
        return self

    @property
    def gateway(self) -> str:
        """Return the host's own address in the network."""
        return str(ipaddress.IPv4Network(self.subnet)[1])

    @property
    def prefix_length(self) -> int:
        """Return the length of the network's prefix in bits."""
        return ipaddress.IPv4Network(self.subnet).prefixlen

    def address(self, slot: int) -> str:
        """Return the IPv4 address of ``slot`` (0 to ``slots`` - 1)."""
        return str(ipaddress.IPv4Network(self.subnet)[FIRST_SLOT + slot])

    def mac(self, slot: int) -> str:
        """Return the MAC of ``slot``: QEMU's prefix, a byte of the network's name, the slot."""
        tag = hashlib.sha256(self.name.encode()).digest()[0]
        return f"52:54:00:{tag:02x}:{slot >> 8:02x}:{slot & 0xFF:02x}"


class Haproxy(Table):
    """The data plane. ``slots`` bounds the domains of one group that can be in rotation."""

    slots: int = Field(default=64, ge=1, le=1024)
    maxconn: int = Field(default=4000, ge=10, le=100000)
    check_interval_s: float = Field(default=0.5, ge=0.1, le=60)
    request_timeout_s: float = Field(default=30.0, ge=1, le=3600)


class Group(Table):
    """A group of identical domains behind one endpoint.

    ``power_off`` says what becomes of a domain that ignores its power button. ``retry`` is the furthest that a request
    without an answer goes to another member; each value includes those before it. ``response_timeout_s`` bounds the
    time to the first byte of an answer, ``stream_idle_timeout_s`` the pauses of a stream of events,
    ``tunnel_timeout_s`` those of a WebSocket and of a TCP connection. ``slow_start_s``: so long a new member's share
    grows. ``max_session_s``: after so long a TCP connection is ended; 0: never. Some defaults follow from what is
    booted (``common.config_defaults``); those that stand here are a guest's of our own kernel.
    """

    kind: Literal["template", "existing"] = "template"
    prefix: str
    minimum: int = Field(default=1, ge=0, le=1000, alias="min")
    maximum: int = Field(default=4, ge=1, le=1000, alias="max")
    surge: int = Field(default=1, ge=0, le=100)
    hosts: tuple[str, ...] = Field(default=("local",), strict=False, min_length=1)
    endpoint: str = "127.0.0.1:8000"
    protocol: Literal["http", "tcp"] = "http"
    mode: Literal["on", "off", "observe", "out-only"] = "on"
    port: int = Field(default=8080, ge=1, le=65535)
    max_in_flight: int = Field(default=16, ge=1, le=100000)
    retry: Literal["conn-failure", "empty-response", "response-timeout"] | None = None
    response_timeout_s: float | None = Field(default=None, ge=1, le=86400)
    stream_idle_timeout_s: float | None = Field(default=None, ge=1, le=86400)
    tunnel_timeout_s: float = Field(default=TUNNEL_S, ge=1, le=86400 * 7)
    max_session_s: float = Field(default=0.0, ge=0, le=86400 * 30)
    slow_start_s: float = Field(default=0.0, ge=0, le=3600)
    address_source: Literal["lease", "arp", "agent", "static"] = "lease"
    addresses: dict[str, str] = Field(default_factory=dict)
    address_network: str = ""
    cooldown_out_s: Seconds = 5.0
    cooldown_in_s: Seconds = 30.0
    max_step_out: int = Field(default=4, ge=1, le=1000)
    max_step_in: int = Field(default=1, ge=1, le=1000)
    start_timeout_s: Positive = 30.0
    boot_timeout_s: Positive = 90.0
    drain_timeout_s: Seconds = 30.0
    stop_timeout_s: Positive = 10.0
    power_off: Literal["never", "after-stop-timeout"] = "after-stop-timeout"
    unhealthy_grace_s: Positive = 10.0
    keep_failed: bool = False
    warm_up_s: Seconds = 0.0
    cpu_without_requests: Literal["ignore", "count"] = "ignore"
    patience_s: Seconds = 3600.0
    patience_memory_s: Seconds = 3600.0
    image: Image = Image()
    readiness: Readiness = Readiness()
    warm: Warm = Warm()
    burst: Burst = Burst()
    policies: tuple[Policy, ...] = Field(default=(Threshold(),), strict=False, min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _tcp_groups_are_probed_by_tcp(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("protocol") == "tcp" and "readiness" not in values:
            return values | {"readiness": {"protocol": "tcp"}}
        return values

    @model_validator(mode="before")
    @classmethod
    def _defaults_follow_from_what_is_booted(cls, values: Any) -> Any:
        return with_defaults(values) if isinstance(values, dict) else values

    @field_validator("prefix")
    @classmethod
    def _prefix_is_a_name(cls, prefix: str) -> str:
        if not names.PREFIX.fullmatch(prefix):
            raise ValueError(f"must match {names.PREFIX.pattern}")
        return prefix

    @field_validator("hosts")
    @classmethod
    def _hosts_differ(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(hosts)) != len(hosts):
            raise ValueError(f"every host must be given once; got {list(hosts)}")
        return hosts

    @field_validator("addresses")
    @classmethod
    def _addresses_are_apart(cls, addresses: dict[str, str]) -> dict[str, str]:
        for name, address in addresses.items():
            if not is_address(address):
                raise ValueError(f"{name} needs an IP address, not a host name; got {address!r}")
        if len(set(addresses.values())) != len(addresses):
            raise ValueError(f"every domain needs an address of its own; got {addresses}")
        return addresses

    @field_validator("address_network")
    @classmethod
    def _address_network_is_a_name_or_a_range(cls, network: str) -> str:
        if "/" in network:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise ValueError(f"{network!r} is no range of addresses such as 10.0.0.0/24: {error}") from error
        elif network and (is_address(network) or not names.NETWORK.fullmatch(network)):
            raise ValueError(f"must be a libvirt network's name, or a range such as 10.0.0.0/24; got {network!r}")
        return network

    @field_validator("endpoint")
    @classmethod
    def _endpoint_is_an_address(cls, endpoint: str) -> str:
        split_endpoint(endpoint)
        return endpoint

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.minimum > self.maximum:
            raise ValueError(f"min must be <= max ({self.maximum}); got {self.minimum}")
        if self.kind == "template" and self.address_source != "lease":
            raise ValueError("address_source is for groups of kind 'existing'; a template group knows its addresses")
        if self.address_network and (self.kind == "template" or self.address_source == "static"):
            raise ValueError("address_network is for groups of kind 'existing' whose addresses are looked for")
        if self.kind == "existing" and self.image.disk:
            raise ValueError("image.disk is for groups of kind 'template'; the domains of this one exist already")
        if self.address_source == "static" and not self.addresses:
            raise ValueError("address_source 'static' needs a table addresses = { NAME = ADDRESS }")
        strangers = [name for name in self.addresses if names.domain_index(self.prefix, name) is None]
        if strangers:
            raise ValueError(f"addresses must name domains {self.prefix}0000, {self.prefix}0001, …; got {strangers}")
        return self

    @field_validator("warm", mode="before")
    @classmethod
    def _auto_is_short_for_a_table(cls, warm: Any) -> Any:
        if isinstance(warm, str):
            if warm != "auto":
                raise ValueError("must be 'auto' or a table")
            return {"sizing": "auto"}
        return warm

    @model_validator(mode="after")
    def _warm_domains_are_ours_and_fit(self) -> Self:
        if self.kind == "existing" and self.warm.is_used:
            raise ValueError("warm is for groups of kind 'template'; your own domains are started as they are")
        if self.warm.running >= self.maximum:
            raise ValueError(f"warm.running must be less than max ({self.maximum}); got {self.warm.running}")
        return self

    @model_validator(mode="after")
    def _burst_goes_beyond_the_quota(self) -> Self:
        if not self.burst.enabled:
            return self
        if self.kind == "existing":
            raise ValueError("burst.enabled is for groups of kind 'template'; the quota of your own domains is yours")
        if self.burst.max_quota <= self.image.cpu_quota:
            raise ValueError(
                f"burst.max_quota must be greater than image.cpu_quota ({self.image.cpu_quota}); "
                f"got {self.burst.max_quota}"
            )
        return self

    @model_validator(mode="after")
    def _keys_fit_the_protocol(self) -> Self:
        strangers = [key for key in HTTP_ONLY if getattr(self, key) is not None]
        if self.protocol == "tcp" and strangers:
            raise ValueError(
                f"{', '.join(strangers)}: only with protocol 'http'; of a TCP connection HAProxy sees no request, so "
                "only a failed connect is tried again, and tunnel_timeout_s says how long it may be idle"
            )
        if self.protocol == "http" and self.max_session_s:
            raise ValueError("max_session_s: only with protocol 'tcp'; requests end by themselves")
        if 0 < self.max_session_s < 1:
            raise ValueError(f"max_session_s must be 0 (no limit) or at least 1; got {self.max_session_s}")
        return self

    def answers_within_s(self, haproxy: Haproxy) -> float:
        """Return within how long an answer must begin."""
        return haproxy.request_timeout_s if self.response_timeout_s is None else self.response_timeout_s

    def event_stream_idle_s(self, haproxy: Haproxy) -> float:
        """Return how long a stream of events may pause."""
        least_s = max(EVENT_STREAM_IDLE_S, self.answers_within_s(haproxy))
        return least_s if self.stream_idle_timeout_s is None else self.stream_idle_timeout_s

    @property
    def may_cut_power(self) -> bool:
        """Return whether a domain that does not shut down may be powered off; by default only one of our own making."""
        return self.power_off == "after-stop-timeout"

    @property
    def booted(self) -> Booted:
        """Return what its domains boot: some defaults follow from that."""
        return booted(self.kind, self.image.disk)

    @property
    def is_identity_checked(self) -> bool:
        """Return whether a domain must name itself to be ready; by default those of our own kernel images must."""
        if self.readiness.protocol == "tcp":
            return False
        return self.booted is Booted.KERNEL if self.readiness.identity is None else self.readiness.identity

    @property
    def ceiling(self) -> int:
        """Return the most domains the group may own, in whatever phase: also those to stand by, and a template."""
        return self.maximum + self.surge + self.warm.standby + self.warm.templates


class Config(Table):
    """The whole file."""

    system: System = System()
    bus: Bus = Bus()
    network: Network = Network()
    haproxy: Haproxy = Haproxy()
    hosts: dict[str, Host] = Field(default_factory=lambda: {"local": Host()}, min_length=1)
    groups: dict[str, Group] = Field(min_length=1)
    metrics: Metrics = Metrics()
    notifications: tuple[Notification, ...] = Field(default=(), strict=False, max_length=100)

    @property
    def services(self) -> tuple[str, ...]:
        """Return the services that run with this configuration, in the order in which they are shown."""
        is_wanted = {"exporter": bool(self.metrics.listen), "notifier": bool(self.notifications)}
        return (*SERVICES, *(name for name in OPTIONAL_SERVICES if is_wanted[name]))

    @model_validator(mode="after")
    def _outputs_fit_the_groups(self) -> Self:
        for key, listen in (("listen", self.metrics.listen), ("haproxy_listen", self.metrics.haproxy_listen)):
            for name, group in self.groups.items():
                if listen and is_clash(listen, group.endpoint):
                    raise ValueError(
                        f"metrics.{key} clashes with groups.{name}.endpoint: {listen!r} and {group.endpoint!r}"
                    )
        for number, told in enumerate(self.notifications):
            strangers = sorted(set(told.groups) - set(self.groups))
            if strangers:
                raise ValueError(
                    f"notifications.{number}.groups: {strangers} are not defined; defined: {[*self.groups]}"
                )
        names_given = [told.name for told in self.notifications if told.name]
        if len(set(names_given)) != len(names_given):
            raise ValueError(f"notifications: every name must be given once; got {names_given}")
        return self

    @field_validator("groups", "hosts")
    @classmethod
    def _names_are_plain(cls, tables: _Tables) -> _Tables:
        for name in tables:
            if not names.GROUP_NAME.fullmatch(name):
                raise ValueError(f"the name {name!r} must match {names.GROUP_NAME.pattern}")
        return tables

    @model_validator(mode="after")
    def _groups_are_apart(self) -> Self:
        for name, group in self.groups.items():
            strangers = sorted(set(group.hosts) - set(self.hosts))
            if strangers:
                raise ValueError(f"groups.{name}.hosts: {strangers} are not defined; defined: {sorted(self.hosts)}")
            if group.maximum > self.haproxy.slots:
                raise ValueError(
                    f"groups.{name}.max must be <= haproxy.slots ({self.haproxy.slots}); got {group.maximum}"
                )
            if group.kind == "template" and group.maximum > self.network.slots:
                raise ValueError(
                    f"groups.{name}.max must be <= network.slots ({self.network.slots}); got {group.maximum}"
                )
            if group.warm.is_used and group.ceiling > self.network.slots:
                raise ValueError(
                    f"groups.{name}.warm: max + surge + paused + saved + template must be <= network.slots "
                    f"({self.network.slots}); got {group.ceiling}"
                )
            for other, rival in self.groups.items():
                if other < name and group.prefix == rival.prefix:
                    raise ValueError(f"groups.{name}.prefix clashes with groups.{other}.prefix: both {group.prefix!r}")
                if other < name and is_clash(group.endpoint, rival.endpoint):
                    raise ValueError(
                        f"groups.{name}.endpoint clashes with groups.{other}.endpoint: "
                        f"{group.endpoint!r} and {rival.endpoint!r}"
                    )
        return self


def _check_tcp_endpoint(name: str, endpoint: str) -> None:
    try:
        host, port = split_endpoint(endpoint.removeprefix("tcp://"))
    except ValueError as error:
        raise ValueError(f"endpoints.{name} must be tcp://ADDRESS:PORT; got {endpoint!r} ({error})") from error
    if not endpoint.startswith("tcp://") or host == "*" or port > 65534:
        raise ValueError(f"endpoints.{name} must be tcp://ADDRESS:PORT with a port in 1..65534; got {endpoint!r}")


def _check_ports_apart(endpoints: dict[str, str]) -> None:
    """Refuse two services on one port: each needs its own and the next one."""
    taken: dict[tuple[str, int], str] = {}
    for name, endpoint in endpoints.items():
        host, port = split_endpoint(endpoint.removeprefix("tcp://"))
        for needed in (port, port + 1):
            rival = taken.setdefault((host, needed), name)
            if rival != name:
                raise ValueError(f"endpoints.{name} and endpoints.{rival} both need port {needed}: leave 2 to each")
