"""What every table of ``autoscaler.toml`` is, and the numbers that tables are made of."""

from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[float, Field(ge=0, le=86400 * 7)]
Positive = Annotated[float, Field(gt=0, le=86400 * 7)]
Share = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, slots=True)
class Secret:
    """Marks a key whose value may let others in, such as a token in a URL: it is never shown (``config_schema``)."""


SECRET: Final = Secret()


class Table(BaseModel):
    """A table of the file: frozen, every key known, every number finite; pydantic's own errors show no value."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)
