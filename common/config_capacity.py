"""How a group gets capacity in a second: what it keeps warm, and what its members may take for a while."""

from pydantic import Field

from common.config_table import Share, Table


class Burst(Table):
    """The CPU quota of overloaded members, raised with what the host has idle until new members serve.

    ``max_quota`` is the most share of one CPU for each vCPU; ``reserve_cpus`` of a host are always left alone.
    """

    enabled: bool = False
    max_quota: Share = 1.0
    reserve_cpus: float = Field(default=0.2, ge=0, le=4096)
