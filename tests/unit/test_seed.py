"""Seeds for cloud-init: what they say, that they say it again, and that the volume carries it."""

import io
import json

import pycdlib
import pytest

from common.config import Network
from services.actuator.core.disks import Disk
from services.actuator.core.seed import LABEL, MAX_USER_DATA_BYTES, seed_files, why_no_user_data
from services.actuator.seed import seed_volume

UUID = "7b1f2f10-1111-5222-8333-1234567890ab"
NETWORK = Network(name="autoscaler", subnet="192.168.150.0/24")


def files(user_data: str = "", name_servers: tuple[str, ...] = ()) -> dict[str, bytes]:
    disk = Disk("/images/debian.qcow2", 0, user_data, ("ssh-ed25519 AAAA me",), name_servers)
    return seed_files("web-0003", UUID, NETWORK, 3, disk)


def test_the_domain_learns_who_it_is() -> None:
    assert json.loads(files()["meta-data"]) == {
        "instance-id": UUID,
        "local-hostname": "web-0003",
        "public-keys": ["ssh-ed25519 AAAA me"],
    }


def test_the_address_is_that_of_the_slot_on_the_nic_with_the_slots_mac() -> None:
    nic = json.loads(files()["network-config"])["config"][0]
    assert nic["mac_address"] == NETWORK.mac(3)
    assert nic["subnets"][0]["address"] == "192.168.150.13/24"
    assert nic["subnets"][0]["gateway"] == "192.168.150.1"


@pytest.mark.parametrize("servers", [(), ("192.0.2.1", "192.0.2.2")])
def test_the_name_servers_are_those_told_and_never_our_network_itself(servers: tuple[str, ...]) -> None:
    nic = json.loads(files("", servers)["network-config"])["config"][0]
    assert nic["subnets"][0]["dns_nameservers"] == list(servers)


def test_the_machine_id_follows_from_the_uuid() -> None:
    text = files()["vendor-data"].decode()
    assert text.startswith("#cloud-boothook\n#!/bin/sh\n")
    assert UUID.replace("-", "") in text


def test_a_seed_made_again_says_the_same() -> None:
    assert files("#!/bin/sh\n") == files("#!/bin/sh\n")


@pytest.mark.parametrize("text", ["", "#cloud-config\na: 1\n", "#!/bin/sh\n", "## template: jinja\n#cloud-config\n"])
def test_user_data_that_cloud_init_understands_is_passed_on_as_it_is(text: str) -> None:
    assert why_no_user_data(text) == ""
    assert files(text)["user-data"].decode() == (text or "#cloud-config\n")


def test_user_data_that_cloud_init_would_ignore_is_refused() -> None:
    assert "must begin as user-data of cloud-init does" in why_no_user_data("packages: [nginx]\n")
    assert "at most" in why_no_user_data("#cloud-config\n" + "x" * MAX_USER_DATA_BYTES)


def test_the_volume_has_the_label_and_the_files_under_their_names() -> None:
    volume = pycdlib.PyCdlib()
    volume.open_fp(io.BytesIO(seed_volume(files())))
    try:
        assert volume.pvd.volume_identifier.decode().strip() == LABEL
        for name, content in files().items():
            for path in ({"joliet_path": f"/{name}"}, {"rr_path": f"/{name}"}):
                read = io.BytesIO()
                volume.get_file_from_iso_fp(read, **path)
                assert read.getvalue() == content
    finally:
        volume.close()
