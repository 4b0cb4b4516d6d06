"""Writes initramfs archives (cpio, "newc") that depend on the content alone.

Entries are sorted; owner is root, times are ``mtime_s``, inode numbers count from 1. So the same files
always give the same bytes.
"""

import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_ALIGNMENT = 4
_TRAILER = "TRAILER!!!"


@dataclass(frozen=True)
class Entry:
    """One member: a file, a directory (``stat.S_IFDIR``) or a symbolic link (``stat.S_IFLNK``)."""

    mode: int
    data: bytes = b""


def file(data: bytes, permissions: int = 0o644) -> Entry:
    """Return a regular file."""
    return Entry(stat.S_IFREG | permissions, data)


def write(members: Mapping[str, Entry], mtime_s: int = 0) -> bytes:
    """Return the archive of ``members`` (path without leading ``/`` → entry), parent directories included."""
    entries = dict(members)
    for path in members:
        for parent in _parents(path):
            entries.setdefault(parent, Entry(stat.S_IFDIR | 0o755))
    parts: list[bytes] = []
    for number, (path, entry) in enumerate(sorted(entries.items()), start=1):
        parts += _member(path, entry, number, mtime_s)
    parts += _member(_TRAILER, Entry(0), 0, 0)
    return b"".join(parts)


def _parents(path: str) -> Iterator[str]:
    pieces = path.split("/")[:-1]
    for count in range(1, len(pieces) + 1):
        yield "/".join(pieces[:count])


def _member(path: str, entry: Entry, inode: int, mtime_s: int) -> list[bytes]:
    name = path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (inode, entry.mode, 0, 0, links, mtime_s, len(entry.data), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return [head, _padding(len(head)), entry.data, _padding(len(entry.data))]


def _padding(length: int) -> bytes:
    return b"\0" * (-length % _ALIGNMENT)
