"""What the first record of a run, and now and then another one, carries along: the settings and the standing, as JSON.

A recording thus repeats itself without the configuration file that was in force, also after its oldest part is gone.
What forecasts have learned is some 100 KB, so it comes along less often, and for each group at a time of its own.
"""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from pydantic import ValidationError

from common.config import Group
from services.decider.core.learned import to_text
from services.decider.core.state import GroupState, Settings, Standing, learned_of

EVERY_TICKS: Final = 600
LEARNED_EVERY_TICKS: Final = 3600
RELOAD: Final = (
    "reload"  # stands among a record's orders where the settings changed; its argument ``settings`` holds them
)


@dataclass(frozen=True, slots=True)
class Basis:
    """What a replay stands on: the group's settings, and its standing after the tick that told it."""

    settings: Settings
    standing: Standing


def told(state: GroupState) -> str:
    """Return the basis as JSON on the first tick, every ``EVERY_TICKS``, and after a reload; empty on most others."""
    is_reloaded = any(ordered.verb == RELOAD for ordered in state.ordered)
    if state.tick % EVERY_TICKS != 1 and not is_reloaded and not _is_turn_of_learned(state):
        return ""
    return json.dumps(_values(state.settings) | {"standing": asdict(state.standing)}, sort_keys=True)


def learned_told(state: GroupState) -> str:
    """Return what the policies have learned after this tick, as text; empty but once in ``LEARNED_EVERY_TICKS``."""
    return to_text(learned_of(state, is_whole=True)) if _is_turn_of_learned(state) else ""


def _is_turn_of_learned(state: GroupState) -> bool:
    turn = int(state.settings.chance * LEARNED_EVERY_TICKS)
    return state.tick > 1 and state.tick % LEARNED_EVERY_TICKS == turn and bool(learned_of(state))


def settings_text(settings: Settings) -> str:
    """Return the settings alone as JSON, for a reload."""
    return json.dumps(_values(settings), sort_keys=True)


def _values(settings: Settings) -> dict[str, Any]:
    return {
        "interval_s": settings.interval_s,
        "stale_after_s": settings.stale_after_s,
        "republish_s": settings.republish_s,
        "slots": settings.slots,
        "group": _plain(settings.group),
    }


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
        return Basis(read_settings(text, name, run_id), standing(json.loads(text)["standing"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"the standing in the recording of group {name} cannot be read: {error}") from error


def read_settings(text: str, name: str, run_id: int) -> Settings:
    """Return the settings that ``told`` or ``settings_text`` wrote about the group ``name`` in the run ``run_id``.

    Raises:
        ValueError: it is something else, or knows what this release does not.
    """
    try:
        values = json.loads(text)
        return Settings(
            name=name,
            group=Group.model_validate_json(json.dumps(values["group"])),
            interval_s=float(values["interval_s"]),
            stale_after_s=float(values["stale_after_s"]),
            republish_s=float(values["republish_s"]),
            slots=int(values["slots"]),
            run_id=run_id,
        )
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
