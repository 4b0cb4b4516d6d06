"""A guest without a guest: asks a DHCP server on one interface for an address, as any client with that MAC would.

``python dhcp_client.py INTERFACE CLIENT_ID_HEX`` prints what was acknowledged as JSON; it gives up after 20 s.
"""

import json
import os
import socket
import struct
import sys
from pathlib import Path
from typing import Any

COOKIE = b"\x63\x82\x53\x63"
DISCOVER, OFFER, REQUEST, ACK = 1, 2, 3, 5
TYPE, REQUESTED, SERVER, CLIENT_ID, DNS, LEASE = 53, 50, 54, 61, 6, 51


def message(kind: int, mac: bytes, number: bytes, options: dict[int, bytes]) -> bytes:
    """Return one request; its answer is to be broadcast, for the sender has no address yet."""
    head = struct.pack("!BBBB4sHH16s16s", 1, 1, 6, 0, number, 0, 0x8000, b"", mac)
    asked = {TYPE: bytes([kind]), **options, 55: bytes([1, 3, DNS])}
    return head + bytes(192) + COOKIE + b"".join(bytes([k, len(v)]) + v for k, v in asked.items()) + b"\xff"


def options_of(packet: bytes) -> dict[int, bytes]:
    """Return the options of an answer."""
    found, rest = {}, packet[240:]
    while rest and rest[0] != 0xFF:
        if rest[0] == 0:
            rest = rest[1:]
            continue
        found[rest[0]] = rest[2 : 2 + rest[1]]
        rest = rest[2 + rest[1] :]
    return found


def ask(interface: str, client_id: bytes) -> dict[str, Any]:
    """Return the address that the server acknowledged, and the name servers it told."""
    mac = bytes.fromhex(Path(f"/sys/class/net/{interface}/address").read_text().strip().replace(":", ""))
    number = os.urandom(4)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        line.bind(("0.0.0.0", 68))
        line.settimeout(1.0)
        own = {CLIENT_ID: client_id} if client_id else {}
        offered = _exchange(line, message(DISCOVER, mac, number, own), number, OFFER)
        wanted = own | {REQUESTED: offered[16:20], SERVER: options_of(offered)[SERVER]}
        acknowledged = _exchange(line, message(REQUEST, mac, number, wanted), number, ACK)
    told = options_of(acknowledged).get(DNS, b"")
    servers = [socket.inet_ntoa(told[at : at + 4]) for at in range(0, len(told), 4)]
    return {"address": socket.inet_ntoa(acknowledged[16:20]), "name_servers": servers}


def _exchange(line: socket.socket, asked: bytes, number: bytes, kind: int) -> bytes:
    for _ in range(20):
        line.sendto(asked, ("255.255.255.255", 67))
        try:
            packet = line.recv(2048)
        except TimeoutError:
            continue
        if packet[4:8] == number and options_of(packet).get(TYPE) == bytes([kind]):
            return packet
    raise SystemExit("no DHCP server answers")


if __name__ == "__main__":
    print(json.dumps(ask(sys.argv[1], bytes.fromhex(sys.argv[2]))))
