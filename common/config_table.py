"""What every table of ``autoscaler.toml`` is, and the numbers that tables are made of."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[float, Field(ge=0, le=86400 * 7)]
Positive = Annotated[float, Field(gt=0, le=86400 * 7)]
Share = Annotated[float, Field(gt=0, le=1)]


class Table(BaseModel):
    """A table of the file: frozen, every key known, every number finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
