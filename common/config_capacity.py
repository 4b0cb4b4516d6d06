"""How a group gets capacity in a second: what it keeps warm, and what its members may take for a while."""

from typing import Literal, Self

from pydantic import Field, model_validator

from common.config_table import Positive, Share, Table


class Warm(Table):
    """What a group keeps ready beyond its desired capacity, and how its domains are made.

    ``running`` domains are in rotation as reserve, ``paused`` and ``saved`` ones wait in phase standby: booted, asked,
    then paused in memory or saved to disk. With ``sizing`` ``auto`` the last two follow from recent demand, and paused
    ones hold at most ``memory_mib``. ``start``: a new domain boots (``cold``) or is a ``clone`` of a booted one. A
    standby older than ``max_age_s`` is made anew.
    """

    sizing: Literal["fixed", "auto"] = "fixed"
    start: Literal["cold", "clone"] = "cold"
    running: int = Field(default=0, ge=0, le=100)
    paused: int = Field(default=0, ge=0, le=100)
    saved: int = Field(default=0, ge=0, le=100)
    memory_mib: int = Field(default=1024, ge=0, le=1024 * 1024)
    max_age_s: Positive = 86400.0

    @model_validator(mode="after")
    def _auto_chooses_itself(self) -> Self:
        if self.sizing == "auto" and self.paused + self.saved > 0:
            raise ValueError(
                f"sizing 'auto' chooses paused and saved itself; leave them out; got {self.paused} and {self.saved}"
            )
        return self

    @property
    def is_used(self) -> bool:
        """Return whether anything is asked for here."""
        return self.sizing == "auto" or self.start == "clone" or self.running + self.paused + self.saved > 0

    @property
    def templates(self) -> int:
        """Return how many domains are booted only to be saved, at most."""
        return 1 if self.start == "clone" else 0

    @property
    def standby(self) -> int:
        """Return how many domains are configured to wait in phase standby; with ``auto`` that is not fixed."""
        return self.paused + self.saved


class Burst(Table):
    """The CPU quota of overloaded members, raised with what the host has idle until new members serve.

    ``max_quota`` is the most share of one CPU for each vCPU; ``reserve_cpus`` of a host are always left alone.
    """

    enabled: bool = False
    max_quota: Share = 1.0
    reserve_cpus: float = Field(default=0.2, ge=0, le=4096)
