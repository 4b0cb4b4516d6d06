"""What the configuration says about the graph: which groups, which thresholds, which window."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from common.config import Config, Group

WORDS: Final = {
    "high_ratio": "high",
    "low_ratio": "low",
    "target_ratio": "target",
    "above_ratio": "above",
    "below_ratio": "below",
}


@dataclass(frozen=True, slots=True)
class GroupView:
    """One group's panel. ``levels``: ratio and name of each line across; ``window_s`` of the rule that scales out."""

    name: str
    prefix: str
    window_s: float
    levels: tuple[tuple[float, str], ...]


def views(config: Config) -> tuple[GroupView, ...]:
    """Return a view of every group, in the order of the file."""
    return tuple(_view(name, group, config.system.interval_s) for name, group in config.groups.items())


def _view(name: str, group: Group, interval_s: float) -> GroupView:
    window_s, levels = interval_s, dict[float, str]()
    for policy in reversed(group.policies):
        settings = policy.model_dump()
        window_s = settings.get("out_window_s") or settings.get("out_stabilization_s") or window_s
        if settings.get("metric", "cpu") == "cpu":
            levels |= {ratio: f"{word} {ratio:.0%}" for word, ratio in _ratios(settings)}
    return GroupView(name, group.prefix, window_s, tuple(sorted(levels.items(), reverse=True)))


def _ratios(settings: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the CPU ratios at which a policy acts, whichever policy it is, each with a word for it."""
    for table in (settings, *settings.get("steps", ())):
        for key, word in WORDS.items():
            if table.get(key) is not None:
                yield word, table[key]
