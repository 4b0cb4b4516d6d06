"""A connection whose changes may be told a name alone: a test that made the domain knows which one it means."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import libvirt

from common.domain import DomainState
from common.hypervisor import Connection

NOBODY = str(UUID(int=0))
VERBS = ("start", "shutdown", "destroy", "undefine", "suspend", "resume", "set_time", "save_to", "set_link", "save")
VERBS += ("set_metadata", "set_quota")


class Named(Connection):
    """As ``Connection``; where the UUID is left out, it is that of whoever has the name now."""

    def uuid_of(self, name: str) -> str:
        """Return the UUID behind the name, that of nobody where there is none."""
        with self._lines.use() as line:
            try:
                return str(line.raw.lookupByName(name).UUIDString())
            except libvirt.libvirtError:
                return NOBODY

    def remove_mine(self) -> None:
        """End and remove the domains whose names the test may touch; those of other installations are listed, too."""
        for facts in self.domains():
            if not self._may_touch(facts.name):
                continue
            if facts.state is not DomainState.SHUTOFF:
                self.destroy(facts.name)
            if facts.is_persistent:
                self.undefine(facts.name)


def _by_name(verb: str) -> Callable[..., Any]:
    def call(self: Named, name: str, *rest: Any) -> Any:
        told = rest if rest and _is_uuid(rest[0]) else (self.uuid_of(name), *rest)
        return getattr(Connection, verb)(self, name, *told)

    return call


def _is_uuid(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(UUID(value))
    except ValueError:
        return False


for _verb in VERBS:
    setattr(Named, _verb, _by_name(_verb))
