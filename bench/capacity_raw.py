"""The limit of a cold start: libvirt alone defines and starts the same domain, and the first right answer ends it.

No service of ours has a hand in it. The definition is that of a domain which the actuator made, under another name, in
a slot of its own, without our metadata.
"""

import http.client
import time
import xml.etree.ElementTree as ET

import libvirt

from bench.installation import CLOCK
from common.config import Network
from common.domain import METADATA_TAG, METADATA_URI
from common.errors import AutoscalerError

CONNECT_S = 0.1  # as the actuator's own prober: a new attempt is faster than a lost packet, and more of them cost CPU
PAUSE_S = 0.003
TIMEOUT_S = 60.0


def adapted(xml: str, name: str, network: Network) -> str:
    """Return another domain's definition under ``name``, in the network's last slot."""
    slot = network.slots - 1
    root = ET.fromstring(xml)  # noqa: S314 - libvirt's own text
    old = root.findtext("name") or ""
    for gone in ("uuid", f"metadata/{{{METADATA_URI}}}{METADATA_TAG}"):
        parent = root.find("metadata") if "/" in gone else root
        found = root.find(gone)
        if parent is not None and found is not None:
            parent.remove(found)
    for mac in root.iterfind("devices/interface/mac"):
        mac.set("address", network.mac(slot))
    text = ET.tostring(root, encoding="unicode").replace(old, name)
    words = text.split("autoscaler.address=")
    rest = words[1].split("/", 1)[1]
    return f"{words[0]}autoscaler.address={network.address(slot)}/{rest}"


def boot(connection: libvirt.virConnect, xml: str, address: str, port: int) -> float:
    """Return the seconds from the definition of a domain to its first HTTP 200; it is gone afterwards."""
    begin_s = CLOCK.monotonic_s()
    domain = connection.defineXML(xml)
    try:
        domain.create()
        while not _answers(address, port):
            if CLOCK.monotonic_s() - begin_s > TIMEOUT_S:
                raise AutoscalerError(f"no answer at {address}:{port} within {TIMEOUT_S:.0f} s of a raw start")
            time.sleep(PAUSE_S)
        return CLOCK.monotonic_s() - begin_s
    finally:
        if domain.isActive():
            domain.destroy()
        domain.undefine()


def _answers(address: str, port: int) -> bool:
    connection = http.client.HTTPConnection(address, port, timeout=CONNECT_S)
    try:
        connection.connect()
        connection.sock.settimeout(2.0)
        connection.request("GET", "/healthz", headers={"Connection": "close"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
