"""``autoscaler.toml``: what is impossible is refused with file, line, key, what is allowed and what was found."""

from pathlib import Path

import pytest

from common import config_file
from common.config import SERVICES, Config, Group, Image, Network
from common.config_defaults import DEFAULTS
from common.errors import ConfigError

ROOT = Path(__file__).parents[2]
GROUP = '[groups.web]\nprefix = "web-"\n'
STATIC = GROUP + "kind = 'existing'\naddress_source = 'static'\naddresses = { "
TCP = "{" + ", ".join(f'{name} = "tcp://127.0.0.1:{7000 + 2 * at}"' for at, name in enumerate(SERVICES)) + "}"


def parse(text: str) -> Config:
    return config_file.parse(text.encode(), "f.toml")


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_the_file_that_we_ship_is_whole_and_valid() -> None:
    config, digest = config_file.load(ROOT / "autoscaler.toml")
    web = config.groups["web"]
    assert (web.minimum, web.maximum, len(digest)) == (1, 4, 12)


def test_a_file_with_one_group_is_enough() -> None:
    assert parse(GROUP) == Config(groups={"web": Group(prefix="web-")})


DISK = '[groups.web.image]\ndisk = "/srv/debian.qcow2"\n'
EXISTING = "kind = 'existing'\n"


@pytest.mark.parametrize(
    ("table", "warm_up_s"),
    [
        ("", 0.0),
        (DISK, 60.0),
        (EXISTING, 60.0),
        (EXISTING + "warm_up_s = 0.0\n", 0.0),
        ("warm_up_s = 5.0\n", 5.0),
    ],
)
def test_how_long_a_new_member_warms_up_follows_from_what_is_booted(table: str, warm_up_s: float) -> None:
    assert parse(GROUP + table).groups["web"].warm_up_s == warm_up_s


@pytest.mark.parametrize(
    ("table", "stop_timeout_s", "is_cut", "memory_mib"),
    [
        ("", 10.0, True, 128),
        (DISK, 120.0, True, 1024),
        ("stop_timeout_s = 20.0\n" + DISK + "memory_mib = 512\n", 20.0, True, 512),
        ("power_off = 'never'\n" + DISK, 120.0, False, 1024),
        (EXISTING, 120.0, False, 128),
        (EXISTING + "power_off = 'after-stop-timeout'\n", 120.0, True, 128),
    ],
)
def test_how_long_a_guest_may_take_to_power_off_follows_from_what_is_booted(
    table: str, stop_timeout_s: float, is_cut: bool, memory_mib: int
) -> None:
    web = parse(GROUP + table).groups["web"]
    assert (web.stop_timeout_s, web.may_cut_power, web.image.memory_mib) == (stop_timeout_s, is_cut, memory_mib)


def test_defaults_of_a_guest_of_a_kernel_are_those_of_the_classes() -> None:
    classes = {"": Group.model_fields, "image": Image.model_fields}
    for key, default in DEFAULTS.items():
        table, _, leaf = key.rpartition(".")
        assert classes[table][leaf].default == default.kernel, key


def test_an_image_that_code_has_made_keeps_what_was_said_of_it() -> None:
    made = Group(prefix="web-", image=Image(disk="/srv/debian.qcow2", vcpus=2))
    assert (made.image.vcpus, made.image.memory_mib, made.stop_timeout_s) == (2, 1024, 120.0)
    assert Group(prefix="web-", image=Image(disk="/srv/debian.qcow2", memory_mib=128)).image.memory_mib == 128


def test_a_group_of_an_older_recording_has_the_defaults_that_it_left_open() -> None:
    older = Group(prefix="web-", kind="existing").model_dump(mode="json", by_alias=True)
    assert Group.model_validate(older | {"power_off": None, "warm_up_s": None}).warm_up_s == 60.0


@pytest.mark.parametrize("image", ["4", '"x"', "[1]"])
def test_an_image_that_is_no_table_is_refused_as_ever(image: str) -> None:
    assert refusal(f"{GROUP}image = {image}\n").startswith("f.toml:3: groups.web.image: input should be a valid ")


def test_the_digest_tells_one_file_from_another(tmp_path: Path) -> None:
    digests = set()
    for text in (GROUP, GROUP + "max = 5\n"):
        (tmp_path / "f.toml").write_text(text)
        digests.add(config_file.load(tmp_path / "f.toml")[1])
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        # unknown keys
        (GROUP + "mni = 1\n", 3, "groups.web.mni: unknown key; did you mean 'min'? Allowed: "),
        ("[systen]\n" + GROUP, 1, "systen: unknown key; did you mean 'system'?"),
        (GROUP + "[group.x]\nprefix = 'x-'\n", 3, "group: unknown key; did you mean 'groups'?"),
        (GROUP + "[groups.web.imag.x]\ny = 1\n", 3, "groups.web.imag: unknown key; did you mean 'image'?"),
        ("group.x.prefix = 'x-'\n" + GROUP, 1, "group: unknown key; did you mean 'groups'?"),
        ("[groups.web.image]\nvcpus = 1\n[groups.web]\nprefix = 'w-'\nmin = 9\n", 3, "min must be <= max (4); got 9"),
        ("[system]\nrundir = '/x'\n" + GROUP, 2, "system.rundir: unknown key; did you mean 'run_dir'?"),
        (GROUP + "[groups.web.image]\nvcpu = 2\n", 4, "groups.web.image.vcpu: unknown key; did you mean 'vcpus'?"),
        (
            GROUP + "[[groups.web.policies]]\ntype = 'threshold'\nhigh = 0.8\n",
            5,
            "groups.web.policies.0.high: unknown key",
        ),
        # wrong types
        (GROUP + "max = 'four'\n", 3, "groups.web.max: input should be a valid integer; got 'four'"),
        (GROUP + "max = 4.5\n", 3, "groups.web.max: "),
        (GROUP + "warm_up_s = -1.0\n", 3, "groups.web.warm_up_s: input should be greater than or equal to 0; got -1.0"),
        (GROUP + "patience_s = -1.0\n", 3, "groups.web.patience_s: input should be greater than or equal to 0"),
        (GROUP + "patience_memory_s = 'long'\n", 3, "groups.web.patience_memory_s: "),
        (
            GROUP + "cpu_without_requests = 'maybe'\n",
            3,
            "groups.web.cpu_without_requests: input should be 'ignore' or 'count'; got 'maybe'",
        ),
        (GROUP + "keep_failed = 1\n", 3, "groups.web.keep_failed: input should be a valid boolean; got 1"),
        ("[system]\ninterval_s = true\n" + GROUP, 2, "system.interval_s: "),
        ("groups = 3\n", 1, "groups: "),
        ("[groups]\nweb = 3\n", 2, "groups.web: "),
        # impossible values
        (GROUP + "min = 5\nmax = 4\n", 1, "groups.web: min must be <= max (4); got 5"),
        (GROUP + "max = 0\n", 3, "groups.web.max: input should be greater than or equal to 1; got 0"),
        (GROUP + "min = -1\n", 3, "groups.web.min: input should be greater than or equal to 0; got -1"),
        (GROUP + "cooldown_in_s = nan\n", 3, "groups.web.cooldown_in_s: "),
        (GROUP + "cooldown_in_s = inf\n", 3, "groups.web.cooldown_in_s: "),
        (GROUP + "kind = 'cloud'\n", 3, "groups.web.kind: input should be 'template' or 'existing'; got 'cloud'"),
        (GROUP + "endpoint = 'localhost'\n", 3, "groups.web.endpoint: must be ADDRESS:PORT"),
        (GROUP + "endpoint = '127.0.0.1:0'\n", 3, "the port must be in 1..65535"),
        (GROUP + "endpoint = 'localhost:8000'\n", 3, "groups.web.endpoint: "),
        (GROUP + "hosts = []\n", 3, "groups.web.hosts: "),
        (GROUP + "hosts = ['mars']\n", None, "['mars'] are not defined; defined: ['local']"),
        (GROUP + "max = 65\n", None, "groups.web.max must be <= haproxy.slots (64); got 65"),
        (GROUP + "address_network = '10.0.0.0/24'\n", 1, "address_network is for groups of kind 'existing'"),
        (GROUP + "kind = 'existing'\naddress_network = '10.0.0.1/24'\n", 4, "is no range of addresses such as 10."),
        (
            GROUP + "kind = 'existing'\naddress_network = '10.0.0.1'\n",
            4,
            "must be a libvirt network's name, or",
        ),
        (GROUP + "kind = 'existing'\naddress_network = 'a;b'\n", 4, "must be a libvirt network's name, or"),
        (STATIC + "web-0000 = '10.0.0.1' }\naddress_network = 'default'\n", 1, "whose addresses are looked for"),
        (GROUP + "address_source = 'arp'\n", 1, "address_source is for groups of kind 'existing'"),
        ("[system]\ninterval_s = 5.0\n" + GROUP, 1, "stale_after_s must be greater than interval_s (5.0); got 3.5"),
        ("[system]\nrun_dir = 'run'\n" + GROUP, 2, "system.run_dir: must be an absolute path; got 'run'"),
        (f"[system]\nrun_dir = '/{'x' * 100}'\n" + GROUP, 1, "run_dir is too long"),
        ("[system]\nlog_level = 'loud'\n" + GROUP, 2, "system.log_level: input should be 'debug'"),
        ("[network]\nsubnet = '10.0.0.0/29'\n" + GROUP, 1, "slots must be at most 0 in 10.0.0.0/29; got 200"),
        ("[network]\nsubnet = 'near'\n" + GROUP, 1, "subnet must be an IPv4 network"),
        (
            "[network]\nname_servers = ['dns.lan']\n" + GROUP,
            2,
            "every name server must be an IPv4 address; got 'dns.lan'",
        ),
        ("[network]\nname_servers = ['127.0.0.53']\n" + GROUP, 2, "127.0.0.53 would be the guest itself"),
        (
            GROUP + "[[groups.web.policies]]\ntype = 'threshold'\nhigh_ratio = 0.3\n",
            3,
            "low_ratio must be less than high_ratio (0.3); got 0.35",
        ),
        (GROUP + "[[groups.web.policies]]\ntype = 'magic'\n", 3, "groups.web.policies.0: "),
        # hostile names
        ("[groups.'a;b']\nprefix = 'x-'\n", None, "the name 'a;b' must match"),
        ("[groups.'</name>']\nprefix = 'x-'\n", None, "the name '</name>' must match"),
        ("[groups.web]\nprefix = 'a;b'\n", 2, "groups.web.prefix: must match"),
        ("[groups.web]\nprefix = '</name>'\n", 2, "groups.web.prefix: must match"),
        ("[groups.web]\nprefix = ''\n", 2, "groups.web.prefix: must match"),
        ("[network]\nbridge = 'br0; reboot'\n" + GROUP, 2, "network.bridge: "),
        (GROUP + "[groups.web.readiness]\npath = '/x\\r\\nHost: y'\n", 4, "groups.web.readiness.path: "),
        (GROUP + 'endpoint = "fe80::1%lo\\n    bind 0.0.0.0:9999\\n    # :80"\n', 3, "groups.web.endpoint: must be"),
        (GROUP + "endpoint = '::1:8000'\n", 3, "groups.web.endpoint: must be ADDRESS:PORT"),
        ('[system]\nrun_dir = "/run/x\\n[program:evil]"\n' + GROUP, 2, "system.run_dir: must be printable"),
        ("[system]\nrun_dir = '/run/a,b'\n" + GROUP, 2, "system.run_dir: must be printable and without any of ,;#%"),
        ("[system]\nstate_dir = '/srv/50%up'\n" + GROUP, 2, "system.state_dir: must be printable and without any"),
        ("[system]\nrun_dir = '/run/..'\n" + GROUP, 2, "system.run_dir: must be a directory of its own"),
        ("[system]\nrun_dir = '/srv/x'\nstate_dir = '/srv/x'\n" + GROUP, 1, "state_dir must not be run_dir"),
        ("[system]\nrun_dir = '/srv/x'\nstate_dir = '/srv/y/../x/s'\n" + GROUP, 1, "state_dir must not be run_dir"),
        ("[system]\ninterval_s = 0.001\n" + GROUP, 2, "system.interval_s: input should be greater than or equal to"),
        ("[system]\nrepublish_s = 3.5\n" + GROUP, 1, "stale_after_s must be greater than republish_s (3.5); got 3.5"),
        (GROUP + "hosts = ['local', 'local']\n", 3, "groups.web.hosts: every host must be given once"),
        (GROUP + "[network]\nslots = 3\n", None, "groups.web.max must be <= network.slots (3); got 4"),
        (GROUP + "image = { directory = 'images' }\n", 3, "groups.web.image.directory: must be an absolute path"),
        (STATIC + "web-0000 = 'web0.lan' }\n", 5, "web-0000 needs an IP address, not a host name; got 'web0.lan'"),
        (STATIC + "web-0000 = 'fe80::1%lo' }\n", 5, "web-0000 needs an IP address"),
        (STATIC + "web-0000 = '::1', web-0001 = '::1' }\n", 5, "every domain needs an address of its own"),
        (STATIC + "db-0000 = '10.0.0.1' }\n", 1, "addresses must name domains web-0000, web-0001, …; got ['db-0000']"),
        # clashes
        (GROUP + "[groups.db]\nprefix = 'db-'\nendpoint = '0.0.0.0:8000'\n", None, "endpoint clashes with groups."),
        (GROUP + "[groups.db]\nprefix = 'db-'\nendpoint = '*:8000'\n", None, "endpoint clashes with groups."),
        (GROUP + "[groups.db]\nprefix = 'web-'\nendpoint = '127.0.0.1:9000'\n", None, "both 'web-'"),
        (GROUP + "[groups.db]\nprefix = 'db-'\n", None, "endpoint clashes with groups."),
        # bus
        ("[bus]\ntransport = 'tcp'\n" + GROUP, 1, "transport 'tcp' needs an endpoint for each service; missing: "),
        ("[bus]\nendpoints = {cook = 'tcp://127.0.0.1:1'}\n" + GROUP, 1, "unknown services ['cook']"),
        ("[bus]\nendpoints = {monitor = 'udp://127.0.0.1:1'}\n" + GROUP, 1, "endpoints.monitor must be tcp://"),
        ("[bus]\nendpoints = {monitor = 'tcp://127.0.0.1:65535'}\n" + GROUP, 1, "a port in 1..65534"),
        # missing
        ("", None, "groups: is required and missing"),
        ("[groups.web]\nmin = 1\n", 1, "groups.web.prefix: is required and missing"),
    ],
)
def test_what_is_impossible_is_refused(text: str, line: int | None, said: str) -> None:
    told = refusal(text)
    first = told.splitlines()[0]
    assert said in first
    assert first.startswith(f"f.toml:{line}: " if line else "f.toml"), first


def test_every_fault_is_told_at_once() -> None:
    told = refusal(GROUP + "mni = 1\nmax = 'x'\nmode = 'maybe'\n").splitlines()
    assert sorted(line.split(":")[1] for line in told) == ["3", "4", "5"]


def test_broken_toml_is_told_with_its_line() -> None:
    assert "line 3" in refusal(GROUP + "max = \n")
    assert refusal("[groups.web\n").startswith("f.toml: not valid TOML: ")


def test_a_key_given_twice_is_refused() -> None:
    assert "not valid TOML" in refusal(GROUP + "max = 3\nmax = 4\n")


def test_what_is_not_utf_8_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"f\.toml: not UTF-8 at byte 2"):
        config_file.parse(b"# \xff", "f.toml")


def test_a_byte_order_mark_is_no_part_of_the_file() -> None:
    assert config_file.parse(b"\xef\xbb\xbf" + GROUP.encode(), "f.toml") == parse(GROUP)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: cannot be read: No such file or directory"):
        config_file.load(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        config_file.load(tmp_path)


def test_tcp_with_every_endpoint_is_allowed() -> None:
    assert parse(f"[bus]\ntransport = 'tcp'\nendpoints = {TCP}\n" + GROUP).bus.transport == "tcp"


def test_a_port_that_two_services_need_is_refused() -> None:
    crowded = TCP.replace("7002", "7001")  # where the first one answers requests
    told = refusal(f"[bus]\ntransport = 'tcp'\nendpoints = {crowded}\n" + GROUP)
    assert "endpoints.decider and endpoints.monitor both need port 7001" in told


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse(GROUP).groups["web"].maximum = 9  # type: ignore[misc]


def test_a_tcp_group_is_ready_when_its_port_is_open() -> None:
    assert parse(GROUP + "protocol = 'tcp'\n").groups["web"].readiness.protocol == "tcp"


@pytest.mark.parametrize(
    ("text", "is_checked"),
    [
        ("", True),
        ("kind = 'existing'\n", False),
        ("[groups.web.readiness]\nidentity = false\n", False),
        ("kind = 'existing'\n[groups.web.readiness]\nidentity = true\n", True),
        ("[groups.web.readiness]\nprotocol = 'tcp'\n", False),
    ],
)
def test_template_domains_must_name_themselves_unless_told_otherwise(text: str, is_checked: bool) -> None:
    assert parse(GROUP + text).groups["web"].is_identity_checked is is_checked


def test_slots_have_addresses_and_macs_of_their_own() -> None:
    network = Network()
    assert network.gateway == "192.168.150.1"
    assert len({network.address(slot) for slot in range(network.slots)}) == network.slots
    assert len({network.mac(slot) for slot in range(network.slots)}) == network.slots
    assert Network(name="other").mac(0) != network.mac(0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("warm = 'hot'\n", "groups.web.warm: must be 'auto' or a table; got 'hot'"),
        ("kind = 'existing'\n[groups.web.warm]\npaused = 1\n", "warm is for groups of kind 'template'"),
        ("[groups.web.warm]\nrunning = 4\n", "warm.running must be less than max (4); got 4"),
        ("[groups.web.warm]\nsizing = 'auto'\nsaved = 2\n", "sizing 'auto' chooses paused and saved itself"),
        ("[groups.web.warm]\nfrozen = 1\n", "groups.web.warm.frozen: unknown key"),
        ("[groups.web.warm]\nmax_age_s = 0.0\n", "groups.web.warm.max_age_s: "),
        ("[groups.web.warm]\nsaved = 6\n[network]\nslots = 10\n", "must be <= network.slots (10); got 11"),
        (
            "surge = 0\n[groups.web.warm]\nstart = 'clone'\n[network]\nslots = 4\n",
            "must be <= network.slots (4); got 5",
        ),
    ],
)
def test_warm_domains_that_cannot_be_are_refused(text: str, told: str) -> None:
    assert told in refusal(GROUP + text)


def test_warm_domains_have_room_beyond_the_others_and_auto_is_one_word() -> None:
    fixed = parse(GROUP + "[groups.web.warm]\npaused = 2\nsaved = 1\n").groups["web"]
    assert (fixed.warm.standby, fixed.ceiling, fixed.warm.is_used) == (3, 8, True)
    auto = parse(GROUP + "warm = 'auto'\n").groups["web"]
    assert (auto.warm.sizing, auto.warm.is_used, auto.ceiling) == ("auto", True, 5)
    assert not Group(prefix="web-").warm.is_used


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[groups.web.burst]\nenabled = true\n", "burst.max_quota must be greater than image.cpu_quota (1.0); got 1.0"),
        ("kind = 'existing'\n[groups.web.burst]\nenabled = true\n", "burst.enabled is for groups of kind 'template'"),
        ("[groups.web.burst]\nmax_quota = 1.5\n", "groups.web.burst.max_quota: "),
        ("[groups.web.burst]\nreserve_cpus = -1.0\n", "groups.web.burst.reserve_cpus: "),
    ],
)
def test_a_burst_that_cannot_be_is_refused(text: str, told: str) -> None:
    assert told in refusal(GROUP + text)
    assert parse(GROUP + "image = { cpu_quota = 0.4 }\nburst = { enabled = true }\n").groups["web"].burst.max_quota == 1
