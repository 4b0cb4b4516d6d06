"""What the configuration says about the graph: which groups, which thresholds, which window."""

from dataclasses import dataclass

from common.config import Config, Group, TargetTracking, Threshold


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
        if isinstance(policy, Threshold):
            window_s = policy.out_window_s
            levels |= {
                policy.high_ratio: f"high {policy.high_ratio:.0%}",
                policy.low_ratio: f"low {policy.low_ratio:.0%}",
            }
        elif isinstance(policy, TargetTracking):
            window_s = max(policy.out_stabilization_s, interval_s)
            levels |= {policy.target_ratio: f"target {policy.target_ratio:.0%}"}
    return GroupView(name, group.prefix, window_s, tuple(sorted(levels.items(), reverse=True)))
