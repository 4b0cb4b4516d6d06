"""Steps as commands of HAProxy's runtime API.

Only checked names and addresses get here: group names by the configuration, slots by the backend itself, addresses by
``is_address``. So no value can end one command and begin another.
"""

import ipaddress
from typing import Final

from services.balancer.core.backends import Assign, Clear, Cut, SetDrain, SetMaint, SetReady, Step
from services.balancer.core.haproxy_config import EMPTY_ADDRESS, EMPTY_PORT

_STATES: Final = {SetDrain: "drain", SetMaint: "maint", Cut: "maint"}


def is_address(text: str) -> bool:
    """Return whether the text is an IPv4 or IPv6 address, without a zone.

    >>> is_address("10.0.0.5"), is_address("10.0.0.5;shutdown"), is_address("fe80::1%eth0")
    (True, False, False)
    """
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def commands(group: str, step: Step) -> list[str]:
    """Return the commands of one step, in order.

    Raises:
        ValueError: the address of an ``Assign`` is none.
    """
    server = f"set server {group}/{step.slot}"
    match step:
        case Assign(owner=owner, is_trusted=is_trusted):
            if not is_address(owner.address):
                raise ValueError(f"address must be an IP address; got {owner.address!r}")
            return [
                f"{server} addr {owner.address} port {owner.port}",
                f"{server} weight 100%",
                f"{server} state {'ready' if is_trusted else 'drain'}",
            ]
        case SetReady():
            return [f"{server} weight 100%", f"{server} state ready"]
        case Clear():
            return [f"{server} addr {EMPTY_ADDRESS} port {EMPTY_PORT}"]
        case Cut():
            return [f"{server} health down", f"{server} state maint"]
        case _:
            return [f"{server} state {_STATES[type(step)]}"]
