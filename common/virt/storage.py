"""Volumes on a host, through libvirt's own storage: works for a remote host as for this one, without another tool.

``raw`` is a connection of libvirt's; what it raises is translated by the caller.

# Note [A window on the user's directory]
libvirt describes a file only if a pool covers its directory. If the user has an active one, that is asked; else a
transient one of ours is opened over the directory for one look (2 ms) and closed. It only reads there. libvirt refuses
two pools with one path, and compares the texts: so ours names the directory as ``DIRECTORY/.``, and neither a pool that
the user has defined and not started, nor one that is defined meanwhile, is in its way or finds it in the way.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, Final

from common.errors import HypervisorError
from common.volume import (
    SECTOR_BYTES,
    Filled,
    ImageFacts,
    Pool,
    SeenVolume,
    Volume,
    digest,
    directory_of,
    image_facts,
    pool_path,
    pool_xml,
    seen_volume,
    volume_xml,
    window_path,
    window_xml,
)

_WINDOWS: Final = "autoscaler-look"


def image(raw: Any, pool: Pool | None, path: str) -> ImageFacts | None:
    """Return what there is at ``path``, None if there is nothing; see Note [A window on the user's directory].

    ``pool`` is ours on that host, if there is one: the windows of two installations have different names.
    """
    directory = directory_of(path)
    name = _window_name(pool, directory)
    known = _pool_over(raw, directory, name)
    window = known or _window(raw, name) or raw.storagePoolCreateXML(window_xml(name, window_path(name, directory)), 0)
    try:
        return _described(raw, window, path)
    finally:
        if known is None:
            window.destroy()


def ensure_pool(raw: Any, pool: Pool) -> Any:
    """Return our pool, defined and active, with its directory made.

    Raises:
        HypervisorError: the name is another's.
    """
    return _active(_own_pool(raw, pool) or raw.storagePoolDefineXML(pool_xml(pool), 0))


def make(raw: Any, pool: Pool, volume: Volume) -> None:
    """Make the volume; one of the same name is left over from a try that was cut off, and is replaced."""
    target = ensure_pool(raw, pool)
    for old in target.listAllVolumes():
        if old.name() == volume.name:
            old.delete(0)
    made = target.createXML(volume_xml(volume), 0)
    if isinstance(volume, Filled):
        _send(raw, made, volume.content)


def volumes(raw: Any, pool: Pool) -> list[SeenVolume]:
    """Return what is in our pool, in order of names; nothing where there is no pool."""
    found = _own_pool(raw, pool)
    if found is None:
        return []
    _refresh(found)
    return sorted((seen_volume(each.XMLDesc(0)) for each in found.listAllVolumes()), key=lambda each: each.name)


def remove(raw: Any, pool: Pool, is_to_go: Callable[[str], bool]) -> None:
    """Remove the volumes of our pool whose names are to go; no pool, no volumes."""
    found = _own_pool(raw, pool)
    for volume in () if found is None else _active(found).listAllVolumes():
        if is_to_go(volume.name()):
            volume.delete(0)


def remove_pool(raw: Any, pool: Pool) -> bool:
    """Remove our pool and its directory if nothing is left in it; return whether it is gone."""
    close_windows(raw, pool)
    found = _own_pool(raw, pool)
    if found is None:
        return True
    _refresh(found)
    if found.listAllVolumes():
        return False
    found.destroy()
    found.delete(0)
    found.undefine()
    return True


def close_windows(raw: Any, pool: Pool) -> None:
    """Close what an older release left open over the directories of base images; nothing in them changes."""
    for each in raw.listAllStoragePools():
        if each.name().startswith(_window_name(pool, "")[:-8]) and not each.isPersistent():
            each.destroy()


def _own_pool(raw: Any, pool: Pool) -> Any | None:
    for found in raw.listAllStoragePools():
        if found.name() == pool.name:
            if found.UUIDString() != pool.uuid:
                raise HypervisorError(
                    f"storage pool {pool.name!r} is not ours: its UUID is {found.UUIDString()}, ours would be "
                    f"{pool.uuid}; give [network] another name, or remove that pool"
                )
            return found
    return None


def _active(found: Any) -> Any:
    """Return our pool, active: after a reboot it is not; that another thread makes it so meanwhile is no error."""
    if not found.isActive():
        try:
            found.build(0)
            found.create(0)
        except Exception:
            if not found.isActive():
                raise
    return found


def _refresh(found: Any) -> None:
    """Have libvirt look into our pool anew; where its directory is gone, it is made again, and empty.

    libvirt closes a pool that it cannot look into.
    """
    try:
        _active(found).refresh(0)
    except Exception:
        if found.isActive():
            raise
        _active(found).refresh(0)


def _described(raw: Any, window: Any, path: str) -> ImageFacts | None:
    volume = _volume_at(window, path)
    if volume is None:
        window.refresh(0)
        volume = _volume_at(window, path)
    if volume is None:
        return None
    facts = replace(image_facts(volume.XMLDesc(0)), path=path)
    if facts.format != "raw":
        return facts
    return replace(facts, is_bootable=_has_boot_sector(raw, volume, facts.size_bytes))


def _pool_over(raw: Any, directory: str, own: str) -> Any | None:
    """Return the user's active pool over the directory; ``own`` is the name of our window."""
    pools = (p for p in raw.listAllStoragePools() if p.isActive() and p.name() != own)
    return next((p for p in pools if pool_path(p.XMLDesc(0)) == directory), None)


def _window(raw: Any, name: str) -> Any | None:
    """Return the window of this name that a process left open which was killed, or an older release."""
    return next((p for p in raw.listAllStoragePools() if p.name() == name and not p.isPersistent()), None)


def _window_name(pool: Pool | None, directory: str) -> str:
    return f"{_WINDOWS if pool is None else pool.name + '-base'}-{digest(directory)}"


def _volume_at(pool: Any, path: str) -> Any | None:
    """Return the volume of that file: the pool is over its directory, whatever its path for it."""
    name = PurePosixPath(path).name
    return next((volume for volume in pool.listAllVolumes() if PurePosixPath(volume.path()).name == name), None)


def _has_boot_sector(raw: Any, volume: Any, size_bytes: int) -> bool:
    if size_bytes < SECTOR_BYTES:
        return False
    received = bytearray()
    stream = raw.newStream(0)
    volume.download(stream, 0, SECTOR_BYTES, 0)
    stream.recvAll(lambda _stream, data, _opaque: received.extend(data), None)
    stream.finish()
    return bytes(received[-2:]) == b"\x55\xaa"


def _send(raw: Any, volume: Any, content: bytes) -> None:
    rest = memoryview(content)

    def more(_stream: Any, count: int, _opaque: None) -> bytes:
        nonlocal rest
        part, rest = bytes(rest[:count]), rest[count:]
        return part

    stream = raw.newStream(0)
    volume.upload(stream, 0, len(content), 0)
    stream.sendAll(more, None)
    stream.finish()
