"""What a template's guest does without a guest: frames by hand, files of settings, the block that says who it is."""

import ast
import socket
import struct
from pathlib import Path

import pytest

from common.config import Network
from services.actuator.core.seed import identity_block
from services.actuator.guest import identity

OWN = bytes.fromhex("525400410003"), socket.inet_aton("192.168.150.13")
GATEWAY = socket.inet_aton("192.168.150.1")
THERE = bytes.fromhex("525400aabbcc")


def test_a_frame_asks_the_gateway_for_its_address_and_only_its_answer_counts() -> None:
    asked = identity.arp_request(OWN, GATEWAY)
    assert (asked[:6], asked[6:12], asked[12:14]) == (b"\xff" * 6, OWN[0], b"\x08\x06")
    answer = OWN[0] + THERE + struct.pack("!HHHBBH6s4s6s4s", 0x806, 1, 0x800, 6, 4, 2, THERE, GATEWAY, *OWN)
    assert identity.arp_answer(GATEWAY, answer) == THERE
    assert identity.arp_answer(socket.inet_aton("192.168.150.2"), answer) is None
    assert identity.arp_answer(GATEWAY, asked) is None and identity.arp_answer(GATEWAY, answer[:30]) is None


def answered(asked: bytes, number: int, transmit: int) -> bytes:
    """Return the gateway's answer to a timestamp request."""
    ip, icmp = bytearray(asked[14:34]), asked[34:]
    ip[12:16], ip[16:20] = GATEWAY, OWN[1]
    return (
        asked[6:12]
        + THERE
        + b"\x08\x00"
        + bytes(ip)
        + b"\x0e"
        + icmp[1:6]
        + struct.pack("!HIII", number, 0, 0, transmit)
    )


def test_a_timestamp_request_is_well_formed_and_its_own_answer_is_understood() -> None:
    asked = identity.timestamp_request(OWN, THERE, GATEWAY, 2)
    for part in (asked[14:34], asked[34:]):
        assert identity.checksum(part) == b"\x00\x00", "a right checksum makes the sum of all 0"
    understood = identity.timestamp_answer(OWN[0], 2, answered(asked, 2, 86_399_999))
    assert understood is not None and int.from_bytes(understood, "big") == 86_399_999
    assert identity.timestamp_answer(OWN[0], 1, answered(asked, 2, 5)) is None, "another request's"
    assert identity.timestamp_answer(THERE, 2, answered(asked, 2, 5)) is None, "another guest's"
    assert identity.timestamp_answer(OWN[0], 2, answered(asked, 2, 1 << 31)) is None, "the host keeps no time"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("address 192.168.150.10/24\n", "address 192.168.150.13/24\n"),
        ("192.168.150.101 other 192.168.150.10\n", "192.168.150.101 other 192.168.150.13\n"),
        ("[Match]\nMACAddress=52:54:00:41:00:0A\n", "[Match]\nMACAddress=52:54:00:41:00:03\n"),
        ("127.0.1.1 web-template web-templates\n", "127.0.1.1 web-0003 web-templates\n"),
    ],
)
def test_settings_of_the_template_become_the_clones(tmp_path: Path, before: str, after: str) -> None:
    path = tmp_path / "file"
    path.write_text(before)
    own = {"mac": "52:54:00:41:00:0a", "address": "192.168.150.10", "name": "web-template"}
    new = {"mac": "52:54:00:41:00:03", "address": "192.168.150.13", "name": "web-0003"}
    identity.rewrite(path, own, new)
    assert path.read_text() == after


def test_what_is_no_text_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "binary"
    path.write_bytes(b"\xff\xfe192.168.150.10")
    values = {"mac": "a", "address": "192.168.150.10", "name": "b"}
    identity.rewrite(path, values, values)
    identity.rewrite(tmp_path, values, values)
    assert path.read_bytes() == b"\xff\xfe192.168.150.10"


def test_who_it_is_is_read_from_the_last_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = tmp_path / "seed"
    block = identity_block("web-0003", "7b1f2f10-1111-5222-8333-1234567890ab", Network(), 3, 17, "ab")
    seed.write_bytes(bytes(65536) + block)
    monkeypatch.setattr("fcntl.ioctl", lambda *_: 0)  # a file is no block device
    found = identity.read_identity(str(seed))
    assert (found["name"], found["epoch_ms"], found["prefix_length"]) == ("web-0003", "17", "24")
    assert len(block) == identity.BLOCK_BYTES


def test_it_runs_with_the_oldest_python_that_cloud_init_meets() -> None:
    """Parse it as Python 3.7 would."""
    ast.parse(Path(identity.__file__).read_text(encoding="utf-8"), feature_version=(3, 7))
