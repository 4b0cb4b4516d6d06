"""The snapshots of all groups on disk: which are whole, which are used up, which nobody needs any more.

``state_dir/actuator/snapshots/GROUP@HOST/KEY.save`` with ``KEY.json`` beside it, which holds size and digest. A
snapshot is hashed once, when it is first seen, and not in the service's own thread: that takes a second for each GiB.
While its size and time stay as they were, it is taken to be the same.
"""

import hashlib
import json
import os
import shutil
import stat
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Final

from common import files, names
from common.config import Config, Group, Network
from common.log import logger
from common.phases import Phase
from common.volume import Pool, digest
from services.actuator.cloning import CloneOrder, SnapshotOrder
from services.actuator.core.clone_xml import snapshot_key, template_xml, why_not_cloned
from services.actuator.core.clones import TEMPLATE, TIER
from services.actuator.core.disks import OVERLAY, Base, Disk, volume_name
from services.actuator.core.domain_xml import DomainSpec, domain_xml
from services.actuator.core.record import Record
from services.actuator.core.seen import SeenHost, Snapshot, Template, Wanted
from services.actuator.core.steps import Clone, SetPhase, Step, TakeSnapshot
from services.actuator.drafts import CloneDisks, disks_of, draft
from services.actuator.perform import Outcome, Result
from services.actuator.prober import target_of

FOLDER: Final = "actuator/snapshots"
MAX_FAILURES: Final = 2
LOOKING: Final = "its snapshot is being looked at"
NOBODY: Final = "00000000-0000-4000-8000-000000000000"

log = logger()


Mark = tuple[int, int]
"""The time of a file's last change, and its size."""


@dataclass(frozen=True, slots=True)
class Frozen:
    """The disk that a snapshot's clones stand on, as its manifest describes it."""

    path: str
    size_bytes: int
    mtime_ns: int

    @property
    def is_whole(self) -> bool:
        """Return whether it is still as it was."""
        try:
            state = Path(self.path).stat()
        except OSError:
            return False
        return (state.st_size, state.st_mtime_ns) == (self.size_bytes, self.mtime_ns)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What ``KEY.json`` says of a snapshot."""

    sha256: str
    disk: Frozen | None = None


def elsewhere(work: Callable[[], None]) -> None:
    """Have the work done by a thread of its own."""
    threading.Thread(target=work, name="snapshot-check", daemon=True).start()


class Snapshots:
    """What the groups' clones go on from; used by the service's own thread only."""

    def __init__(self, state_path: Path, do: Callable[[Callable[[], None]], None] = elsewhere) -> None:
        """Keep them under ``state_path``; ``do`` has done what takes long."""
        self._folder = state_path / FOLDER
        self._do = do
        self._checked: dict[Path, tuple[Mark, Manifest | None]] = {}
        self._checking: set[tuple[Path, Mark]] = set()
        self._failures: dict[tuple[str, str], int] = {}
        self._keys: dict[tuple[str, str], str] = {}
        self._damaged: list[tuple[str, str]] = []

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
            key, why_not = "", files.why_open(self._folder) or _why_not(config, host, group, template)
            if not why_not:
                key, why_not = key_of(name, group, template, config.network, host)
            self._keys[(name, host.name)] = key
            is_whole = self._is_whole(name, host.name, key) if key else False
            found[host.name] = Snapshot(key, bool(is_whole), LOOKING if is_whole is None else why_not)
        return found

    def damaged(self) -> list[tuple[str, str]]:
        """Return the group and host of each snapshot thrown away since the last call, for its file was damaged."""
        found, self._damaged = self._damaged, []
        return found

    def path(self, group: str, host: str, key: str) -> Path:
        """Return where the snapshot is, or would be."""
        return self._folder / f"{group}@{host}" / f"{key}.save"

    def frozen(self, path: Path) -> Frozen | None:
        """Return what the disks of the snapshot's clones stand on; None without one."""
        known = self._checked.get(path)
        return None if known is None or known[1] is None else known[1].disk

    def spared(self) -> frozenset[str]:
        """Return the names of the volumes that snapshots need; safe from every thread."""
        manifests = [_manifest(path) for path in self._folder.glob("*/*.json")]
        return frozenset(Path(m.disk.path).name for m in manifests if m is not None and m.disk is not None)

    def sweep(self, config: Config) -> None:
        """Remove what no group clones from any more, and what a killed process left, and look at the rest at once.

        Only at the start: when the first domains are wanted, it is known what they can be cloned from.
        """
        used = {f"{n}@{h}" for n, g in config.groups.items() if g.warm.start == TIER for h in g.hosts}
        for folder in self._folder.iterdir() if self._folder.is_dir() else ():
            if folder.name not in used:
                shutil.rmtree(folder, ignore_errors=True)
            for pipe in folder.glob("*.pipe"):
                _end(pipe)
            alone = [path for path in folder.glob("*.json") if not path.with_suffix(".save").exists()]
            for left in (*alone, *folder.glob("*.part"), *folder.glob("*.new")):
                left.unlink(missing_ok=True)
            for snapshot in folder.glob("*.save"):
                self._look(snapshot, _mark(snapshot.stat()))

    def finished(self, outcome: Outcome) -> str:
        """Count what became of a clone; return why the snapshot was thrown away, empty where it was not."""
        step = outcome.step
        if isinstance(step, TakeSnapshot) and outcome.result is Result.DONE:
            self._failures.pop((step.group, step.host), None)
            self._trust(self.path(step.group, step.host, step.snapshot))
            self._remove_others(step)
        if not _is_verdict(step, outcome.result):
            return ""
        key = step.group, step.host
        if isinstance(step, SetPhase) and step.record.phase is not Phase.FAILED:
            self._failures.pop(key, None)
            return ""
        self._failures[key] = self._failures.get(key, 0) + 1
        if self._failures[key] < MAX_FAILURES:
            return ""
        self._failures.pop(key)
        self._remove(self.path(*key, self._keys.get(key, "")))
        return f"{MAX_FAILURES} clones in a row failed; the last: {outcome.error or step.reason}"

    def _is_whole(self, group: str, host: str, key: str) -> bool | None:
        """Return whether the snapshot is there, as its manifest says; None while that is being looked at."""
        path = self.path(group, host, key)
        try:
            state = path.stat()
        except OSError:
            return False
        mark = _mark(state)
        self._look(path, mark)
        known = self._checked.get(path)
        if known is None or known[0] != mark:
            return None
        is_whole = known[1] is not None and (known[1].disk is None or known[1].disk.is_whole)
        if not is_whole:
            log.warning("snapshot-damaged", path=str(path))
            self._damaged.append((group, host))
            self._remove(path)
        return is_whole

    def _look(self, path: Path, mark: Mark) -> None:
        """Have the file hashed, unless it has been, as it is now, or is being."""
        if (path, mark) not in self._checking and self._checked.get(path, (None,))[0] != mark:
            self._checking.add((path, mark))
            self._do(partial(self._check, path, mark))

    def _check(self, path: Path, mark: Mark) -> None:
        self._checked[path] = mark, _matching(path)
        self._checking.discard((path, mark))

    def _trust(self, path: Path) -> None:
        """Take a snapshot that has just been made, and hashed, to be as its manifest says."""
        with suppress(OSError):
            self._checked[path] = _mark(path.stat()), _manifest(path)

    def _remove_others(self, step: TakeSnapshot) -> None:
        own = self.path(step.group, step.host, step.snapshot)
        for other in own.parent.glob("*.save"):
            if other != own:
                self._remove(other)

    def _remove(self, path: Path) -> None:
        self._checked.pop(path, None)
        for part in (path.with_suffix(".json"), path):
            part.unlink(missing_ok=True)


def key_of(name: str, group: Group, template: Template, network: Network, host: SeenHost) -> tuple[str, str]:
    """Return the key of the snapshot that the group's domains on the host can be cloned from, or why they cannot."""
    record = Record(
        group=name, uuid=NOBODY, host=host.name, phase=Phase.CREATING, since_mono_s=0.0, since_s=0.0, boot_id="",
        slot=0, is_boosted=True, template=template.digest, tier=TEMPLATE,
    )  # fmt: skip
    accel = host.accel or ""
    base = None if template.disk is None else host.bases[template.disk.path]
    domain = names.template_name(group.prefix)
    disks = None if base is None else disks_of(domain, NOBODY, Pool("", ""), base)
    xml = domain_xml(DomainSpec(domain, NOBODY, record, accel, group, network, template, disks))
    why_not = why_not_cloned(xml)
    told = "" if base is None or template.disk is None else _seed_of(base, template.disk)
    return ("", why_not) if why_not else (snapshot_key(xml, accel, host.version, told), "")


def _seed_of(base: Base, disk: Disk) -> str:
    """Return what a saved memory knows besides its definition: its image, our program, and whom it asks for names."""
    return f"{base.identity} {digest(_program())} {' '.join(disk.name_servers)}"


def order_of(
    wanted: Wanted,
    step: Clone | TakeSnapshot,
    template: Template,
    snapshot: Path,
    base: Base | None = None,
    pool: Pool | None = None,
    frozen: Frozen | None = None,
) -> CloneOrder | SnapshotOrder | None:
    """Return all that the step needs; None where the disk image, or the snapshot's disk, is not what it was.

    Args:
        wanted: The group.
        step: It says which domain.
        template: What the group's domains boot.
        snapshot: Where the snapshot is or goes.
        base: The group's disk image, None for a kernel's group.
        pool: Where volumes go.
        frozen: What the disks of clones stand on, None for a kernel's group.
    """
    is_clone = isinstance(step, Clone)
    made = draft(wanted, step, template, base, pool, "" if is_clone else _program())
    if made is None:
        return None
    disks = None
    if template.disk is not None:
        if base is None or pool is None or (is_clone and frozen is None):
            return None
        disk = pool.path_of(volume_name(step.domain, step.uuid, OVERLAY)) if frozen is None else frozen.path
        disks = CloneDisks(disk, base, template.disk, pool, wanted.network)
    if isinstance(step, Clone):
        spec = DomainSpec(
            step.domain, step.uuid, step.record, step.accel, wanted.group, wanted.network, template,
            None if disks is None else disks.of(step.domain, step.uuid),
        )  # fmt: skip
        return CloneOrder(
            xml=domain_xml(spec),
            snapshot=snapshot,
            network=wanted.network,
            console_dir=template.console_dir,
            disks=disks,
            otherwise=None if disks is None else made,
        )
    return SnapshotOrder(
        xml=template_xml(made.xml),
        volumes=made.volumes,
        snapshot=snapshot,
        target=target_of(
            wanted.name, wanted.group, step.host, step.domain, wanted.network.address(step.record.slot or 0)
        ),
        network=wanted.network,
        console_dir=template.console_dir,
        boot_s=wanted.group.boot_timeout_s,
        disks=disks,
    )


def _end(pipe: Path) -> None:
    """Remove a pipe; libvirt, which may wait for ever for somebody to write to it, reads its end."""
    os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    pipe.unlink(missing_ok=True)


def _mark(state: os.stat_result) -> Mark:
    return state.st_mtime_ns, state.st_size


@cache
def _program() -> str:
    """Return what the guest of a disk image runs while it is a template."""
    return resources.files("services.actuator.guest").joinpath("identity.py").read_text(encoding="utf-8")


def _why_not(config: Config, host: SeenHost, group: Group, template: Template) -> str:
    uri = config.hosts[host.name].uri
    if not uri.startswith("qemu:///system"):
        return f"clones need libvirt's system instance on this machine; {host.name} is {uri}"
    if group.readiness.protocol == "agent":
        return "domains that are asked by their guest agent are not cloned"
    if template.disk is None:
        return "" if template.console_dir else "the image has no console, on which a guest says that it can be saved"
    base = host.bases.get(template.disk.path)
    return f"looking at {template.disk.path}" if base is None else base.note


def _is_verdict(step: Step, result: Result) -> bool:
    if isinstance(step, Clone):
        return result is Result.FAILED
    return (
        isinstance(step, SetPhase)
        and result is Result.DONE
        and step.record.is_cloned
        and not step.record.is_woken
        and step.was is Phase.BOOTING
        and step.record.phase in (Phase.WARMING, Phase.STANDBY, Phase.FAILED)
    )


def _matching(path: Path) -> Manifest | None:
    """Return the snapshot's manifest if the file is as it says."""
    manifest = _manifest(path)
    why_open = files.why_open(path) or files.why_open(path.with_suffix(".json"))
    if why_open:
        log.warning("snapshot-refused", path=str(path), reason=why_open)
    if manifest is None or why_open:
        return None
    try:
        if manifest.disk is not None and Path(manifest.disk.path).stat().st_mode & stat.S_IROTH:
            return None  # of an older release, which left the disk open to all
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
    return manifest if manifest.sha256 == found else None


def _manifest(path: Path) -> Manifest | None:
    try:
        manifest = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if manifest["format"] != 1:
            return None
        disk = manifest.get("disk")
        frozen = Frozen(str(disk["path"]), int(disk["bytes"]), int(disk["mtime_ns"])) if disk else None
        return Manifest(str(manifest["sha256"]), frozen)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
