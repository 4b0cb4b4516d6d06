"""What one test showed of its rows of the fault matrix."""

from dataclasses import dataclass, field

SHORT_S = 60.0
BRIEF_S = 5.0


@dataclass
class Proof:
    """What one test showed of its rows; ``fault`` is None once it has passed.

    ``longest_s``: how long a fault lasts at most in this run.
    """

    rows: tuple[int, ...]
    seen: list[str] = field(default_factory=list)
    fault: str | None = "did not run"
    longest_s: float = BRIEF_S

    def measured(self, what: str, value: float, at_most: float, unit: str = "s") -> None:
        """Note a figure beside the row's own bound, and fail beyond it."""
        digits = 0 if isinstance(value, int) else 2 if value < 10 else 1
        self.seen.append(f"{what}: {value:.{digits}f} {unit} (at most {at_most:g})".replace("  ", " "))
        print(f"  {self.seen[-1]}", flush=True)
        assert value <= at_most, self.seen[-1]

    def held(self, what: str) -> None:
        """Note what the test has just asserted."""
        self.seen.append(what)
        print(f"  {what}", flush=True)

    def lasts_s(self, whole_s: float) -> float:
        """Return for how many seconds a fault of ``whole_s`` lasts in this run."""
        return min(whole_s, self.longest_s)
