"""An answer that is asked anew after a while, or when it is known to have changed."""

from collections.abc import Callable, Collection
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Remembered(Generic[_T]):
    """One answer a key; safe to use from several threads."""

    def __init__(self, for_s: float) -> None:
        """Remember nothing yet; an answer counts for ``for_s``."""
        self._for_s = for_s
        self._answers: dict[str, tuple[float, _T]] = {}
        self._forgotten = 0

    def get(self, key: str, now_s: float, ask: Callable[[], _T]) -> _T:
        """Return the answer, asked now if none is remembered."""
        known = self._answers.get(key)
        if known is not None and now_s - known[0] < self._for_s:
            return known[1]
        forgotten, answer = self._forgotten, ask()
        if forgotten == self._forgotten:  # else it may have changed while it was asked for
            self._answers[key] = (now_s, answer)
        return answer

    def forget(self, key: str) -> None:
        """Have the next ``get`` ask; an answer that is being asked for now is not kept."""
        self._forgotten += 1
        self._answers.pop(key, None)

    def keep(self, keys: Collection[str]) -> None:
        """Forget all other keys."""
        for key in [key for key in self._answers if key not in keys]:
            self.forget(key)
