"""The snapshots of all groups on disk: which are whole, which are used up, which nobody needs any more.

``state_dir/actuator/snapshots/GROUP@HOST/KEY.save`` with ``KEY.json`` beside it, which holds size and digest. A
snapshot is hashed once, when it is first seen; while its size and time stay as they were, it is taken to be the same.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from common import names
from common.config import Config, Group, Network
from common.log import logger
from common.phases import Phase
from services.actuator.cloning import CloneOrder, SnapshotOrder
from services.actuator.core.clone_xml import snapshot_key, template_xml
from services.actuator.core.clones import TEMPLATE, TIER
from services.actuator.core.domain_xml import DomainSpec, domain_xml
from services.actuator.core.record import Record
from services.actuator.core.seen import SeenHost, Snapshot, Template, Wanted
from services.actuator.core.steps import Clone, SetPhase, Step, TakeSnapshot
from services.actuator.perform import Outcome, Result
from services.actuator.prober import Target

FOLDER: Final = "actuator/snapshots"
MAX_FAILURES: Final = 2
NOBODY: Final = "00000000-0000-4000-8000-000000000000"

log = logger()


class Snapshots:
    """What the groups' clones go on from; used by the service's own thread only."""

    def __init__(self, state_path: Path) -> None:
        """Keep them under ``state_path``."""
        self._folder = state_path / FOLDER
        self._checked: dict[Path, tuple[tuple[int, int], bool]] = {}
        self._failures: dict[tuple[str, str], int] = {}
        self._keys: dict[tuple[str, str], str] = {}

    def seen(
        self, name: str, group: Group, template: Template | None, config: Config, hosts: tuple[SeenHost, ...]
    ) -> Mapping[str, Snapshot]:
        """Return by host what the group's new domains can be cloned from; nothing where they are to boot."""
        if group.warm.start != TIER or template is None:
            return {}
        found: dict[str, Snapshot] = {}
        for host in hosts:
            if host.name not in group.hosts or host.accel is None:
                continue
            why_not = _why_not(config, host.name, template)
            key = "" if why_not else key_of(name, group, template, config.network, host)
            self._keys[(name, host.name)] = key
            found[host.name] = Snapshot(key, bool(key) and self._is_whole(self.path(name, host.name, key)), why_not)
        return found

    def path(self, group: str, host: str, key: str) -> Path:
        """Return where the snapshot is, or would be."""
        return self._folder / f"{group}@{host}" / f"{key}.save"

    def sweep(self, config: Config) -> None:
        """Remove what no group clones from any more, and what a killed process left; only at the start."""
        used = {f"{n}@{h}" for n, g in config.groups.items() if g.warm.start == TIER for h in g.hosts}
        for folder in self._folder.iterdir() if self._folder.is_dir() else ():
            if folder.name not in used:
                shutil.rmtree(folder, ignore_errors=True)
            for left in (*folder.glob("*.pipe"), *folder.glob("*.part"), *folder.glob("*.new")):
                left.unlink(missing_ok=True)

    def finished(self, outcome: Outcome) -> str:
        """Count what became of a clone; return why the snapshot was thrown away, empty where it was not."""
        step = outcome.step
        if isinstance(step, TakeSnapshot) and outcome.result is Result.DONE:
            self._failures.pop((step.group, step.host), None)
            self._remove_others(step)
        if step.tier != TIER or not _is_verdict(step, outcome.result):
            return ""
        key = step.group, step.host
        if isinstance(step, SetPhase) and step.record.phase is Phase.WARMING:
            self._failures.pop(key, None)
            return ""
        self._failures[key] = self._failures.get(key, 0) + 1
        if self._failures[key] < MAX_FAILURES:
            return ""
        self._failures.pop(key)
        self._remove(self.path(*key, self._keys.get(key, "")))
        return f"{MAX_FAILURES} clones in a row failed; the last: {outcome.error or step.reason}"

    def _is_whole(self, path: Path) -> bool:
        try:
            state = path.stat()
        except OSError:
            return False
        mark = state.st_mtime_ns, state.st_size
        known = self._checked.get(path)
        if known is None or known[0] != mark:
            self._checked[path] = known = mark, _matches(path)
            if not known[1]:
                log.warning("snapshot-damaged", path=str(path))
                self._remove(path)
        return known[1]

    def _remove_others(self, step: TakeSnapshot) -> None:
        own = self.path(step.group, step.host, step.snapshot)
        for other in own.parent.glob("*.save"):
            if other != own:
                self._remove(other)

    def _remove(self, path: Path) -> None:
        self._checked.pop(path, None)
        for part in (path.with_suffix(".json"), path):
            part.unlink(missing_ok=True)


def key_of(name: str, group: Group, template: Template, network: Network, host: SeenHost) -> str:
    """Return the key of the snapshot that the group's domains on the host can be cloned from."""
    record = Record(
        group=name, uuid=NOBODY, host=host.name, phase=Phase.CREATING, since_mono_s=0.0, since_s=0.0, boot_id="",
        slot=0, is_boosted=True, template=template.digest, tier=TEMPLATE,
    )  # fmt: skip
    accel = host.accel or ""
    spec = DomainSpec(names.template_name(group.prefix), NOBODY, record, accel, group, network, template)
    return snapshot_key(domain_xml(spec), accel, host.version)


def order_of(
    wanted: Wanted, step: Clone | TakeSnapshot, template: Template, snapshot: Path
) -> CloneOrder | SnapshotOrder:
    """Return all that the step needs: definitions, where the snapshot is or goes, and whom to ask."""
    group, network = wanted.group, wanted.network
    xml = domain_xml(DomainSpec(step.domain, step.uuid, step.record, step.accel, group, network, template))
    if isinstance(step, Clone):
        return CloneOrder(xml=xml, snapshot=snapshot, network=network, console_dir=template.console_dir)
    readiness = group.readiness
    target = Target(
        name=step.domain,
        address=network.address(step.record.slot or 0),
        port=group.port,
        protocol=readiness.protocol,
        path=readiness.path,
        is_identity_checked=group.is_identity_checked,
        timeout_s=readiness.timeout_s,
    )
    xml = template_xml(xml)
    return SnapshotOrder(xml=xml, snapshot=snapshot, target=target, network=network, console_dir=template.console_dir)


def _why_not(config: Config, host: str, template: Template) -> str:
    if not config.hosts[host].uri.startswith("qemu:///system"):
        return f"clones need libvirt's system instance on this machine; {host} is {config.hosts[host].uri}"
    if template.disk is not None or not template.console_dir:
        return "domains that boot from a disk image are not cloned"
    return ""


def _is_verdict(step: Step, result: Result) -> bool:
    if isinstance(step, Clone):
        return result is Result.FAILED
    return (
        isinstance(step, SetPhase)
        and result is Result.DONE
        and step.was is Phase.BOOTING
        and step.record.phase in (Phase.WARMING, Phase.FAILED)
    )


def _matches(path: Path) -> bool:
    """Return whether the file is as its manifest says."""
    try:
        manifest = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return bool(manifest["format"] == 1 and manifest["sha256"] == digest)
    except (OSError, ValueError, KeyError, TypeError):
        return False
