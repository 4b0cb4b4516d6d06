"""Addresses as membership tells them: checked, and remembered while it does not.

An address has two sources: what membership says now, and what it said last. A lease that ran out, or an actuator that
was started anew, makes discovery forget; the domain serves on at the address that it had, and HAProxy's checks say so.
So the last one holds until another is told, or another member is told to have it.
"""

from common.endpoint import is_address
from common.messages import Member, Membership


def with_sound_addresses(membership: Membership) -> Membership:
    """Return the membership with every address that is none taken out: it would end a command and begin another."""
    return _with(membership, {m.uuid: None for m in membership.members if m.address and not is_address(m.address)})


def with_last_addresses(membership: Membership, before: Membership | None) -> Membership:
    """Return the membership with the addresses that it lacks, as ``before`` had them."""
    last = {(m.name, m.uuid): m.address for m in before.members if m.address} if before else {}
    told = {(m.address, m.port) for m in membership.members if m.address}
    lacking = ((m, last.get((m.name, m.uuid))) for m in membership.members if not m.address)
    return _with(membership, {m.uuid: known for m, known in lacking if known and (known, m.port) not in told})


def _with(membership: Membership, addresses: dict[str, str | None]) -> Membership:
    if not addresses:
        return membership

    def changed(member: Member) -> Member:
        return member.model_copy(update={"address": addresses[member.uuid]}) if member.uuid in addresses else member

    return membership.model_copy(update={"members": tuple(changed(member) for member in membership.members)})
