"""How a part of this program is run as a process of its own."""

import sys
from typing import Final

ISOLATED: Final = "-IB"
"""No variable of Python's and no working directory puts another package in the place of ours; nothing is compiled."""


def module(name: str) -> list[str]:
    """Return the command that runs a module of ours with this interpreter; its arguments are to follow."""
    return [sys.executable, ISOLATED, "-m", name]
