"""Whom guests ask for names: what is configured, else what this machine asks, never a loopback."""

from pathlib import Path

import pytest

from common.config import Network
from common.name_servers import name_servers, name_servers_in


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("nameserver 192.0.2.1\nnameserver 192.0.2.2\n", ("192.0.2.1", "192.0.2.2")),
        ("# nameserver 192.0.2.9\nsearch example.org\noptions edns0\nnameserver\t192.0.2.1 # home\n", ("192.0.2.1",)),
        ("nameserver 127.0.0.53\nnameserver ::1\nnameserver 0.0.0.0\nnameserver fe80::1%eth0\n", ()),
        ("nameserver 2001:db8::1\nnameserver 169.254.1.1\nnameserver 224.0.0.1\n", ()),
        ("nameserver 192.0.2.1\nnameserver 192.0.2.1\n", ("192.0.2.1",)),
        ("".join(f"nameserver 192.0.2.{n}\n" for n in range(1, 9)), ("192.0.2.1", "192.0.2.2", "192.0.2.3")),
        ("nameserver\nnameserver somewhere\n\x1b[31m\0", ()),
    ],
)
def test_only_addresses_that_a_guest_can_ask_are_taken(text: str, found: tuple[str, ...]) -> None:
    assert name_servers_in(text) == found


def test_the_first_file_that_names_one_counts(tmp_path: Path) -> None:
    stub, real, later = (tmp_path / name for name in ("stub", "real", "later"))
    stub.write_text("nameserver 127.0.0.53\n")
    real.write_bytes(b"\xff\nnameserver 192.0.2.1\n")
    later.write_text("nameserver 192.0.2.2\n")
    assert name_servers(Network(), (tmp_path / "none", tmp_path, stub, real, later)) == ("192.0.2.1",)
    assert name_servers(Network(), (stub,)) == ()


def test_what_is_configured_is_told_as_it_is_and_an_empty_list_means_none(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 192.0.2.1\n")
    assert name_servers(Network(name_servers=("198.51.100.1",)), (file,)) == ("198.51.100.1",)
    assert name_servers(Network(name_servers=()), (file,)) == ()
