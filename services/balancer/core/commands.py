"""Steps as commands of HAProxy's runtime API.

Only checked names and addresses get here: group names by the configuration, slots by the backend itself, addresses by
``is_address``. So no value can end one command and begin another.
"""

from typing import Final

from common.endpoint import is_address
from services.balancer.core.backends import (
    Assign,
    Avoid,
    Clear,
    Cut,
    KeepUp,
    SetDrain,
    SetMaint,
    SetReady,
    StartChecks,
    Step,
    StopChecks,
)
from services.balancer.core.haproxy_config import EMPTY_ADDRESS, EMPTY_PORT

_STATES: Final = {SetDrain: "drain", SetMaint: "maint", Cut: "maint"}


def commands(group: str, step: Step) -> list[str]:
    """Return the commands of one step, in order.

    Raises:
        ValueError: the address of an ``Assign`` is none.
    """
    name = f"{group}/{step.slot}"
    server = f"set server {name}"
    match step:
        case Assign(owner=owner, is_trusted=is_trusted):
            if not is_address(owner.address):
                raise ValueError(f"address must be an IP address; got {owner.address!r}")
            return [
                f"{server} addr {owner.address} port {owner.port}",
                f"{server} weight 100%",
                f"enable health {name}",  # whoever had the slot before may have been held
                f"{server} state {'ready' if is_trusted else 'drain'}",
            ]
        case SetReady(is_trusted=is_trusted):
            up = [f"{server} health up"] if is_trusted else []
            return [f"{server} weight 100%", *up, f"{server} state ready"]
        case Clear():
            return [f"{server} addr {EMPTY_ADDRESS} port {EMPTY_PORT}"]
        case Avoid():
            return [f"{server} health stopping"]
        case StopChecks():
            return [f"{server} health stopping", f"disable health {name}"]
        case StartChecks(is_fresh=is_fresh):
            return [*([f"{server} health stopping"] if is_fresh else []), f"enable health {name}"]
        case KeepUp():
            return [f"{server} health up"]
        case Cut():
            return [f"{server} health down", f"{server} state maint"]
        case _:
            return [f"{server} state {_STATES[type(step)]}"]
