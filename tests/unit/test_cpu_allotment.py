"""What libvirt shows, read without libvirt: allotment, metadata, names, capabilities."""

import pytest

from common.domain import (
    METADATA_URI,
    allotted_cpus,
    cpu_model,
    domain_types,
    metadata_element,
    name_in_xml,
    parse_metadata,
)
from common.errors import HypervisorError
from common.plain import plain_values

HOSTILE = {"group": 'a"b', "cause": "</member><x/>", "note": "a;b\n&amp;"}
CAPABILITIES = """
<capabilities>
  <host><cpu><arch>x86_64</arch><model>EPYC</model><vendor>AMD</vendor></cpu></host>
  <guest><arch name='i686'><domain type='xen'/></arch></guest>
  <guest><arch name='x86_64'><domain type='qemu'/><domain type='kvm'/></arch></guest>
</capabilities>"""


@pytest.mark.parametrize(
    ("vcpus", "parameters", "expected"),
    [
        (2, {}, 2.0),
        (2, {"vcpu_quota": -1, "vcpu_period": 100000}, 2.0),
        (1, {"vcpu_quota": 25000, "vcpu_period": 100000}, 0.25),
        (4, {"vcpu_quota": 50000, "vcpu_period": 100000}, 2.0),
        (1, {"vcpu_quota": 300000, "vcpu_period": 100000}, 1.0),
        (1, {"vcpu_quota": 17592186044415, "vcpu_period": 100000}, 1.0),
        (4, {"global_quota": 100000, "global_period": 100000}, 1.0),
        (4, {"vcpu_quota": 10000, "vcpu_period": 100000, "global_quota": 100000, "global_period": 100000}, 0.4),
        (1, {"vcpu_quota": 0, "vcpu_period": 0}, 1.0),
        (0, {}, 0.0),
    ],
)
def test_the_allotment_is_vcpus_times_quota(vcpus: int, parameters: dict[str, int], expected: float) -> None:
    assert allotted_cpus(vcpus, parameters) == pytest.approx(expected)


def test_metadata_survive_hostile_values() -> None:
    element = metadata_element(HOSTILE).replace("<member", f'<member xmlns="{METADATA_URI}"')
    assert parse_metadata(element) == plain_values(HOSTILE)


def test_attributes_of_foreign_namespaces_are_not_ours() -> None:
    assert parse_metadata('<member xmlns:x="urn:x" group="web" x:phase="ready"/>') == {"group": "web"}


def test_a_definition_names_its_domain() -> None:
    assert name_in_xml("<domain><name>web-0000</name></domain>") == "web-0000"


@pytest.mark.parametrize("text", ["", "<domain", "<domain/>", "<domain><name/></domain>"])
def test_a_definition_without_a_name_is_refused(text: str) -> None:
    with pytest.raises(HypervisorError, match="a domain's definition"):
        name_in_xml(text)


def test_capabilities_tell_the_domain_types_of_the_hosts_own_architecture() -> None:
    assert domain_types(CAPABILITIES) == {"qemu", "kvm"}


def test_capabilities_tell_the_cpu() -> None:
    assert cpu_model(CAPABILITIES) == "x86_64 AMD EPYC"
    assert cpu_model("<capabilities><host/></capabilities>") == ""
