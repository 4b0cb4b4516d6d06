"""A user's own part of the domain definition: parsed with its lines, checked, merged as a tree.

# Note [How trees merge]
An element meets the one with the same tag and identity under the same parent: its attributes and its text replace, its
children merge in turn. The identity is a disk's target, an interface's MAC, a controller's type and index, and so on
(``IDENTITIES``); below ``devices`` one without it is added. Everywhere else the tag alone is the identity: there
is one ``cpu``, one ``clock``. Each of ours meets one at most, so of two ``boot`` the second is added, in its order.
What has no partner is added. What the autoscaler itself decides is refused.
"""

import copy
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from xml.parsers import expat

from common.config import Network
from common.domain import AGENT_CHANNEL

IDENTITIES: Final[dict[str, tuple[tuple[str, str], ...]]] = {  # child, attribute
    "disk": (("target", "dev"),),
    "interface": (("mac", "address"),),
    "controller": ((".", "type"), (".", "index")),
    "channel": (("target", "name"),),
    "serial": (("target", "port"),),
    "filesystem": (("target", "dir"),),
    "graphics": ((".", "type"),),
    "input": ((".", "type"), (".", "bus")),
    "feature": ((".", "name"),),
    "timer": ((".", "name"),),
    "vcpupin": ((".", "vcpu"),),
    "cell": ((".", "id"),),
}
DEFAULTS: Final = {("controller", "index"): "0"}  # what libvirt takes an attribute for that is left out
SINGLE_DEVICES: Final = frozenset({"emulator", "memballoon", "iommu", "vsock", "panic", "watchdog"})
_BY_KEY: Final = "it follows from autoscaler.toml"
_OURS: Final[dict[str, str]] = {
    "domain/name": "names are given by the group's prefix",
    "domain/uuid": "it is made anew for each domain",
    "domain/metadata/member": "our own record stands there",
    "domain/memory": f"{_BY_KEY}: image.memory_mib",
    "domain/currentMemory": f"{_BY_KEY}: image.memory_mib",
    "domain/vcpu": f"{_BY_KEY}: image.vcpus",
    "domain/cputune/quota": f"{_BY_KEY}: image.cpu_quota",
    "domain/cputune/period": f"{_BY_KEY}: image.cpu_quota",
    "domain/os/type": f"{_BY_KEY}: image.machine",
    "domain/os/kernel": f"{_BY_KEY}: image.directory",
    "domain/os/initrd": f"{_BY_KEY}: image.directory",
    "domain/os/cmdline": "it tells the guest who it is",
    "domain/on_poweroff": "a domain that stops is to be gone",
    "domain/on_reboot": "a domain that stops is to be gone",
    "domain/on_crash": "a domain that stops is to be gone",
}


class ExtraXmlError(ValueError):
    """The file cannot be merged; the message names file and line."""


@dataclass(frozen=True, slots=True)
class Extra:
    """A file that has been checked: its text parses, and nothing in it is ours to decide."""

    file: str
    text: str


def check(text: str, file: str, network: Network, own_disks: tuple[str, ...]) -> Extra:
    """Return the file's text as one that may be merged.

    Args:
        text: The file's content.
        file: Its path, for messages.
        network: Its MACs are given to our own interfaces.
        own_disks: The targets of our own disks, such as ``vda``.

    Raises:
        ExtraXmlError: it is no XML, has a DTD, its root is not ``<domain>``, or something in it is ours.
    """
    root, lines = _parse(text, file)

    def refuse(element: ET.Element, why: str) -> None:
        raise ExtraXmlError(f"{file}:{lines[element]}: {why}")

    if root.tag != "domain":
        refuse(root, f"the root must be <domain>; got <{root.tag}>")
    if root.attrib:
        refuse(root, f"<domain> must have no attributes: the host decides its type; got {', '.join(root.attrib)}")
    _refuse_ours(root, "domain", refuse)
    for disk in root.iterfind("devices/disk"):
        if (_at(disk, "target", "dev") or "") in (*own_disks, ""):
            refuse(disk, f"a <disk> must have a target dev other than {' and '.join(own_disks) or 'none'}, our own")
    for nic in root.iterfind("devices/interface"):
        mac = _at(nic, "mac", "address") or ""
        if mac.lower().startswith(network.mac(0)[:11]):
            refuse(nic, f"MACs that begin with {network.mac(0)[:11]} are those of the slots; got {mac}")
    for channel in root.iterfind("devices/channel"):
        if _at(channel, "target", "name") == AGENT_CHANNEL:
            refuse(channel, f"the channel {AGENT_CHANNEL} is there already where a domain has a disk image")
    return Extra(file, text)


def merge(root: ET.Element, extra: Extra) -> None:
    """Change the definition ``root`` as the file says; see Note [How trees merge]."""
    tree, _ = _parse(extra.text, extra.file)
    _merge(root, tree, is_devices=False)


def _refuse_ours(element: ET.Element, path: str, refuse: Callable[[ET.Element, str], None]) -> None:
    for child in element:
        inner = f"{path}/{_local(child.tag)}"
        if inner in _OURS:
            refuse(child, f"<{_local(child.tag)}> is not for this file: {_OURS[inner]}")
        _refuse_ours(child, inner, refuse)


def _merge(base: ET.Element, extra: ET.Element, *, is_devices: bool) -> None:
    base.attrib.update(extra.attrib)
    if extra.text and extra.text.strip():
        base.text = extra.text
    known = list(base)  # two new ones of a kind meet neither each other nor the same one of ours
    for child in extra:
        partner = next((each for each in known if _is_partner(each, child, is_devices)), None)
        if partner is None:
            base.append(copy.deepcopy(child))
        else:
            known.remove(partner)
            _merge(partner, child, is_devices=child.tag == "devices")


def _is_partner(base: ET.Element, extra: ET.Element, is_devices: bool) -> bool:
    if base.tag != extra.tag:
        return False
    if extra.tag in IDENTITIES:
        return all(
            (found := _identity(extra, *path)) is not None and found == _identity(base, *path)
            for path in IDENTITIES[extra.tag]
        )
    return not is_devices or extra.tag in SINGLE_DEVICES


def _identity(element: ET.Element, child: str, attribute: str) -> str | None:
    return _at(element, child, attribute) or DEFAULTS.get((element.tag, attribute))


def _at(element: ET.Element, child: str, attribute: str) -> str | None:
    found = element.find(child)
    return None if found is None else found.get(attribute)


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _parse(text: str, file: str) -> tuple[ET.Element, dict[ET.Element, int]]:
    """Return the tree and the line of each element. A DTD is refused: it could make a bomb of a few lines."""
    builder, lines = ET.TreeBuilder(), dict[ET.Element, int]()
    parser = expat.ParserCreate(namespace_separator="}")
    parser.buffer_text = True

    def begin(tag: str, attributes: dict[str, str]) -> None:
        named = {_named(key): value for key, value in attributes.items()}
        lines[builder.start(_named(tag), named)] = parser.CurrentLineNumber

    def refuse_dtd(*_: object) -> None:
        raise ExtraXmlError(f"{file}:{parser.CurrentLineNumber}: a DTD is not allowed")

    parser.StartElementHandler = begin
    parser.EndElementHandler = lambda tag: builder.end(_named(tag))
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse_dtd
    try:
        parser.Parse(text.encode(), True)
    except expat.ExpatError as error:
        raise ExtraXmlError(f"{file}:{error.lineno}: not XML: {expat.ErrorString(error.code)}") from error
    return builder.close(), lines


def _named(name: str) -> str:
    """Return expat's ``uri}tag`` as ElementTree's ``{uri}tag``."""
    return f"{{{name}" if "}" in name else name
