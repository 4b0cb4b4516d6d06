"""What the first record of a run, and now and then another one, carries along: the settings and the standing, as JSON.

A recording thus repeats itself without the configuration file that was in force, also after its oldest part is gone.
"""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from pydantic import ValidationError

from common.config import Group
from services.decider.core.state import GroupState, Settings, Standing

EVERY_TICKS: Final = 600


@dataclass(frozen=True, slots=True)
class Basis:
    """What a replay stands on: the group's settings, and its standing after the tick that told it."""

    settings: Settings
    standing: Standing


def told(state: GroupState) -> str:
    """Return the basis as JSON on the first tick and then every ``EVERY_TICKS``; empty on all others."""
    if state.tick % EVERY_TICKS != 1:
        return ""
    settings = state.settings
    values = {
        "interval_s": settings.interval_s,
        "stale_after_s": settings.stale_after_s,
        "republish_s": settings.republish_s,
        "slots": settings.slots,
        "group": _plain(settings.group),
        "standing": asdict(state.standing),
    }
    return json.dumps(values, sort_keys=True)


def _plain(group: Group) -> dict[str, Any]:
    """Return the group's table: every key, but of policies those that were set; what fits there depends on it."""
    policies = [
        {"type": policy.type, **policy.model_dump(mode="json", exclude_unset=True)} for policy in group.policies
    ]
    return {**group.model_dump(mode="json", by_alias=True, exclude={"policies"}), "policies": policies}


def read(text: str, name: str, run_id: int) -> Basis:
    """Return what ``told`` wrote about the group ``name`` in the run ``run_id``.

    Raises:
        ValueError: it is something else, or knows what this release does not.
    """
    try:
        values = json.loads(text)
        settings = Settings(
            name=name,
            group=Group.model_validate_json(json.dumps(values["group"])),
            interval_s=float(values["interval_s"]),
            stale_after_s=float(values["stale_after_s"]),
            republish_s=float(values["republish_s"]),
            slots=int(values["slots"]),
            run_id=run_id,
        )
        return Basis(settings, standing(values["standing"]))
    except (KeyError, TypeError, ValidationError) as error:
        raise ValueError(f"the settings in the recording of group {name} cannot be read: {error}") from error


def standing(values: dict[str, object]) -> Standing:
    """Return the standing of these fields.

    Raises:
        ValueError: a field that this release does not know.
    """
    strange = sorted(values.keys() - {field.name for field in fields(Standing)})
    if strange:
        raise ValueError(f"the standing in the recording has fields that this release does not know: {strange}")
    return Standing(**values)  # type: ignore[arg-type]  # the fields are those of asdict
