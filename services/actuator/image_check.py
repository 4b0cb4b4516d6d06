"""``python -m services.actuator --check-images``: whether every group's image can be used, before anything is started.

It looks as the service does: disk images through libvirt on each host, kernel and initramfs, user-data and extra XML
here. A definition with extra XML is shown to libvirt under a probe's name, so that its schema judges it; nothing is
started.
"""

import argparse
import sys
import uuid
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from common import config_file, config_places
from common.config import Config, Group, Image, Network
from common.domain import PROBE_PREFIX
from common.errors import AutoscalerError, HypervisorError
from common.hypervisor import Connection
from common.phases import Phase
from services.actuator.core.disks import DomainDisks
from services.actuator.core.domain_xml import DomainSpec, domain_xml
from services.actuator.core.record import Record
from services.actuator.core.seen import Template
from services.actuator.images import ImageError, Images, check_directory, written_for
from services.actuator.keeper import look


def main(argv: Sequence[str]) -> int:
    """Print what is wrong, one line each; return 0 if nothing is, 1 if something is, 2 for a bad configuration."""
    parser = argparse.ArgumentParser(prog="python -m services.actuator", description="Check the groups' images.")
    parser.add_argument("--config", type=Path, default=None, metavar="FILE")
    parser.add_argument("--check-images", action="store_true", help="look at images, user-data and extra XML")
    try:
        config, _ = config_file.load(config_places.chosen(parser.parse_args(argv).config))
        faults = check(config)
    except AutoscalerError as error:
        faults = [str(error)]
        _say(faults)
        return error.exit_code
    _say(faults)
    return 1 if faults else 0


def check(config: Config) -> list[str]:
    """Return what is wrong with the groups' images and extra XML, by group and host."""
    images = Images(config.system.state_path)
    return [fault for name, group in config.groups.items() for fault in faults_of(config, name, group.hosts, images.of)]


def written_faults(config: Config) -> list[str]:
    """Return what is wrong with what the file names, by group, as far as it shows without libvirt."""
    found = []
    for name, group in config.groups.items():
        if group.kind == "template":
            try:
                written_for(group.image, config.network)
                if group.image.directory:
                    check_directory(group.image.directory)
            except ImageError as error:
                found.append(f"groups.{name}.image: {error}")
    return found


def faults_of(
    config: Config, name: str, hosts: Collection[str], template_of: Callable[[Image, Network], Template]
) -> list[str]:
    """Return what is wrong with the image of one group; kernel and initramfs alone are no matter of its hosts.

    Args:
        config: names the group and the hosts.
        name: of the group.
        hosts: those to look at.
        template_of: what a group with an image boots, such as ``Images.of``, or what is written for it alone.
    """
    group = config.groups[name]
    if group.kind != "template":
        return []
    try:
        template = template_of(group.image, config.network)
    except ImageError as error:
        return [f"groups.{name}.image: {error}"]
    if not (group.image.disk or group.image.xml):
        return []
    return [
        f"groups.{name}.image on {host}: {why}" for host in hosts for why in _on_host(config, group, host, template)
    ]


def _on_host(config: Config, group: Group, host: str, template: Template) -> list[str]:
    try:
        connection = Connection.open(config.hosts[host].uri, is_read_only=False, may_touch=lambda _name: False)
    except HypervisorError as error:
        return [str(error)]
    try:
        bases = look(connection, [group.image.disk] if group.image.disk else [], connection.reader())
        found = [base.note for base in bases.values() if base.note]
        if template.extra is not None:
            found += _schema_says(connection, config, group, host, template)
        return found
    except HypervisorError as error:
        return [str(error)]
    finally:
        connection.close()


def _schema_says(connection: Connection, config: Config, group: Group, host: str, template: Template) -> list[str]:
    name, own_uuid = f"{PROBE_PREFIX}{host}-xml", str(uuid.uuid4())
    record = Record(
        group="", uuid=own_uuid, host=host, phase=Phase.CREATING, since_mono_s=0.0, since_s=0.0, boot_id="", slot=0
    )
    disks = DomainDisks("/nowhere/overlay", "/nowhere/seed", group.image.disk, "raw") if group.image.disk else None
    spec = DomainSpec(name, own_uuid, record, "qemu", group, config.network, template, disks)
    try:
        connection.define(domain_xml(spec))
        connection.undefine(name, own_uuid)
    except HypervisorError as error:
        return [f"libvirt refuses the definition with {group.image.xml} merged in: {error}"]
    return []


def _say(lines: Sequence[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr, flush=True)  # noqa: T201 - this is a command
