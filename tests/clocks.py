"""A clock that a test moves."""

from dataclasses import dataclass


@dataclass
class FakeClock:
    """Stands at ``now_s`` after boot until a test sets it; the boot was at ``boot_epoch_s``."""

    now_s: float = 100.0
    boot_epoch_s: float = 1_999_999_900.0

    def monotonic_s(self) -> float:
        return self.now_s

    def epoch_s(self) -> float:
        return self.boot_epoch_s + self.now_s
