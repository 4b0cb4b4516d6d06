"""Why a domain is not ready, in one sentence: what came from where it was asked, and what readiness wants.

The fact is ``messages.Unready``, as the actuator's prober saw it; whoever shows it says it in these words.
"""

from collections.abc import Mapping
from typing import Final

from common.endpoint import join_endpoint
from common.messages import Member, Membership, Unready

WRONG: Final = frozenset({"status", "identity", "agent-identity"})
"""Something answers, and not as readiness wants: that does not pass by waiting for a boot."""
MOST_NAMED: Final = 5

_CAME: Final[Mapping[str, tuple[str, str]]] = {
    "status": ("answers {}", "answers without a status"),
    "identity": ("answers as {}", "answers without a name"),
    "refused": ("refuses the connection",) * 2,
    "timeout": ("does not answer in time",) * 2,
    "unreachable": ("cannot be reached ({})", "cannot be reached"),
    "broken": ("gives no HTTP answer ({})", "gives no HTTP answer"),
    "no-address": ("has no address yet ({})", "has no address yet"),
    "agent": ("has no guest agent that answers",) * 2,
    "agent-identity": ("has a guest agent that calls it {}", "has a guest agent that knows no name"),
}
"""What is said of each kind, with what came and where nothing did."""
_OTHER: Final = ("is not ready ({})", "is not ready")


def sentence(name: str, why: Unready) -> str:
    """Return why the domain of this name is not ready.

    >>> sentence("shop-0000", Unready(kind="status", address="10.0.0.5", port=8080, path="/health", came="404"))
    'shop-0000 10.0.0.5:8080/health answers 404; readiness wants 200'
    >>> sentence("shop-0000", Unready(kind="no-address", came="lease tells none", wanted=""))
    'shop-0000 has no address yet (lease tells none)'
    """
    where = "" if why.address is None or why.port is None else f"{join_endpoint(why.address, why.port)}{why.path} "
    said, said_of_nothing = _CAME.get(why.kind, _OTHER)
    came = said.format(why.came) if why.came else said_of_nothing
    wants = f"; readiness wants {why.wanted}" if why.wanted else ""
    return f"{name} {where}{came}{wants}"


def of_member(member: Member) -> str:
    """Return the sentence of a member, empty where nothing speaks against it."""
    return "" if member.unready is None else sentence(member.name, member.unready)


def sentences(membership: Membership) -> list[str]:
    """Return the sentences of a group's members: wrong answers first, the first few, and how many there are besides."""
    found = sorted((m.unready.kind not in WRONG, of_member(m)) for m in membership.members if m.unready is not None)
    more = [f"and {len(found) - MOST_NAMED} more are not ready"] if len(found) > MOST_NAMED else []
    return [*(text for _, text in found[:MOST_NAMED]), *more]
