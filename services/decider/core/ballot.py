"""How votes become one recommendation: the largest wins.

A vote has a weight. ``full``: it counts both ways. ``floor``: others may not scale in below what it wants, but by
itself it only scales out. Without a capacity both forbid scale-in. ``none``: it is recorded and changes nothing.
"""

from typing import Final

from common.messages import Vote

FULL: Final = "full"
FLOOR: Final = "floor"
NONE: Final = "none"


def counted(votes: tuple[Vote, ...]) -> tuple[Vote, ...]:
    """Return the votes that take part in the decision."""
    return tuple([vote for vote in votes if vote.weight != NONE])  # a list: this runs thrice a tick


def worth(vote: Vote) -> int | None:
    """Return the capacity that a vote asks for; a floor's vote never shows less than is desired, its wish does."""
    return vote.wanted if vote.weight == FLOOR else vote.capacity


def recommended(votes: tuple[Vote, ...], desired: int) -> int | None:
    """Return the largest recommendation, None where no policy that counts both ways has data and no floor is higher."""
    floor = max((worth(vote) or 0 for vote in votes if vote.weight == FLOOR), default=0)
    full = [vote for vote in votes if vote.weight == FULL]
    voted = [vote.capacity for vote in full if vote.capacity is not None]
    if voted:
        return max(*voted, floor)
    if full and floor <= desired:
        return None
    return max(desired, floor)


def most(votes: tuple[Vote, ...]) -> int | None:
    """Return the most domains that the votes which count allow, None where none of them sets a limit."""
    return min([vote.most for vote in counted(votes) if vote.most is not None], default=None)


def leading(votes: tuple[Vote, ...]) -> Vote | None:
    """Return the vote that wins, the first of several; None where there is none with a capacity."""
    voted = [vote for vote in counted(votes) if vote.capacity is not None]
    return max(voted, key=lambda vote: worth(vote) or 0, default=None)


def leaning(votes: tuple[Vote, ...], desired: int) -> Vote | None:
    """Return the vote that would move the group if it lasted: outwards one is enough, inwards all must agree."""
    votes = counted(votes)
    outwards = [vote for vote in votes if vote.wanted is not None and vote.wanted > desired]
    if outwards:
        return min(outwards, key=lambda vote: vote.wait_s)
    if is_leaning_in(votes, desired):
        return max(votes, key=lambda vote: (vote.wait_s, vote.weight == FULL))
    return None


def is_leaning_in(votes: tuple[Vote, ...], desired: int) -> bool:
    """Return whether every policy would have fewer, windows aside; floors alone never do."""
    votes = counted(votes)
    has_full = any(vote.weight == FULL for vote in votes)
    return has_full and all(vote.wanted is not None and vote.wanted < desired for vote in votes)
