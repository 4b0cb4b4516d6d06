"""Which connection shows which key: what is cut when a key is no longer authorized."""

from collections.abc import Container


class Sessions:
    """The connections at the doors of one service, by their descriptor."""

    def __init__(self) -> None:
        """Know of none."""
        self._keys: dict[int, bytes] = {}

    def saw(self, fd: int, key: bytes) -> None:
        """Note that this connection shows this key; a descriptor that was used before is another connection now."""
        self._keys[fd] = key

    def ended(self, fd: int) -> None:
        """Note that a connection is gone."""
        self._keys.pop(fd, None)

    def to_cut(self, authorized: Container[bytes]) -> list[int]:
        """Return the connections whose key is not among the authorized ones; each is told once."""
        found = sorted(fd for fd, key in self._keys.items() if key not in authorized)
        for fd in found:
            del self._keys[fd]
        return found
