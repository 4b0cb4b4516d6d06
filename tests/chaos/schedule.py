"""Which fault comes next: an endless order that the seed alone decides, the same for every run."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

T = TypeVar("T")

MOST_KILLED: Final = 3
FOLLOWED_RATIO: Final = 0.25
MOST_QUIET_S: Final = 8.0

# How often each comes, against the others, and how long it lasts at least and at most, in seconds.
KINDS: Final = {
    "kill services": (4, 0.0, 0.0),
    "freeze a service": (3, 2.0, 15.0),
    "kill a QEMU": (3, 0.0, 0.0),
    "freeze a QEMU": (2, 2.0, 12.0),
    "suspend by its owner": (3, 1.0, 20.0),
    "reset": (2, 0.0, 0.0),
    "memory snapshot": (2, 0.0, 0.0),
    "restart libvirtd": (2, 0.0, 0.0),
    "reload HAProxy": (3, 0.0, 0.0),
    "fill the state directory": (1, 5.0, 15.0),
    "change the configuration": (2, 0.0, 0.0),
    "order a size": (2, 0.0, 0.0),
    "order a replacement": (2, 0.0, 0.0),
}


@dataclass(frozen=True)
class Fault:
    """One fault, before it is known whom it meets.

    ``chance``: in [0, 1), chooses among what is there when it comes; ``lasts_s``: from its begin to its end;
    ``quiet_s``: calm after all is whole again, >= 0; ``is_followed``: the next one comes before all is whole again.
    """

    number: int
    kind: str
    chance: float
    lasts_s: float
    quiet_s: float
    is_followed: bool

    def one_of(self, choices: list[T]) -> T:
        """Return one of the choices, of which there is one at least."""
        return choices[int(self.chance * len(choices))]

    def some_of(self, choices: list[T]) -> list[T]:
        """Return one to ``MOST_KILLED`` of the choices."""
        rng = random.Random(self.chance)
        return sorted(rng.sample(choices, rng.randint(1, min(MOST_KILLED, len(choices)))), key=str)


def faults(seed: int) -> Iterator[Fault]:
    """Yield faults without end; two iterators of one seed yield the same.

    >>> first, again = faults(7), faults(7)
    >>> [next(first) for _ in range(50)] == [next(again) for _ in range(50)]
    True
    """
    rng = random.Random(seed)
    kinds, weights = list(KINDS), [weight for weight, _, _ in KINDS.values()]
    number = 0
    while True:
        number += 1
        kind = rng.choices(kinds, weights)[0]
        _, least_s, most_s = KINDS[kind]
        yield Fault(
            number,
            kind,
            chance=rng.random(),
            lasts_s=rng.uniform(least_s, most_s),
            quiet_s=rng.uniform(0.0, MOST_QUIET_S),
            is_followed=rng.random() < FOLLOWED_RATIO,
        )
