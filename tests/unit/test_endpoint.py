"""``ADDRESS:PORT``: what goes into HAProxy's configuration holds an address and a port, and nothing else."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.endpoint import is_clash, join_endpoint, split_endpoint, within_reach

PARTS = st.sampled_from(
    ["fe80::1", "[", "]", "%lo", "\n", " bind *:1", "127.0.0.1", "*", ":", "8000", "\uff18", "\t", "#"]
)


@pytest.mark.parametrize(
    "text",
    [
        *("", "8000", ":8000", "a:", "a:b", "a:-1", "localhost:80", "1.2.3:80", "*:123456", "127.0.0.1:80\n"),
        *("::1:8000", "[::1]", "[127.0.0.1]:80", "[fe80::1%lo]:80", "127.0.0.1:\uff18\uff10"),
        "fe80::1%lo\n    bind 0.0.0.0:9999\n    # :80",
    ],
)
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be ADDRESS:PORT"):
        split_endpoint(text)


@pytest.mark.parametrize("port", [0, 65536, 99999])
def test_what_is_no_port_is_refused(port: int) -> None:
    with pytest.raises(ValueError, match=r"must be in 1\.\.65535"):
        split_endpoint(f"127.0.0.1:{port}")


@given(st.one_of(st.text(), st.lists(PARTS).map("".join)))
def test_no_accepted_endpoint_can_begin_another_word_or_line(text: str) -> None:
    try:
        split_endpoint(text)
    except ValueError:
        return
    assert text.isascii()
    assert text.isprintable()
    assert not set(text) & set(" %#;\"'\\")


@given(st.ip_addresses(), st.integers(1, 65535))
def test_every_address_comes_back_as_it_was(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> None:
    bare = str(address).partition("%")[0]
    assert split_endpoint(join_endpoint(bare, port)) == (bare, port)


@pytest.mark.parametrize(
    ("endpoint", "reached"),
    [
        ("*:80", "127.0.0.1"),
        ("0.0.0.0:80", "127.0.0.1"),
        ("[::]:80", "::1"),
        ("[0:0::0]:80", "::1"),
        ("[::1]:80", "::1"),
    ],
)
def test_a_client_here_reaches_a_wildcard_on_loopback(endpoint: str, reached: str) -> None:
    assert within_reach(endpoint) == (reached, 80)


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", True),
        ("127.0.0.1:80", "127.0.0.2:80", False),
        ("0.0.0.0:80", "127.0.0.1:80", True),
        ("*:80", "0.0.0.0:80", True),
        ("[::]:80", "10.0.0.1:80", True),
        ("[::1]:80", "[0::1]:80", True),
        ("*:80", "[::1]:80", False),
        ("*:80", "*:81", False),
    ],
)
def test_two_sockets_clash_where_the_kernel_would_refuse_the_second(one: str, other: str, clash: bool) -> None:
    assert (is_clash(one, other), is_clash(other, one)) == (clash, clash)
