"""Tells what stands once, when it begins, and that it is over; a new process tells it once more."""

from collections.abc import Callable, Collection, Mapping

from common.messages import Event
from services.actuator.core.standing import Key, over


class Alarms:
    """What has been told and still stands."""

    def __init__(self, say: Callable[[Event], None]) -> None:
        """Begin with nothing told; events go to ``say``."""
        self._say = say
        self._told: set[Key] = set()

    def tell(self, standing: Mapping[Key, Event], silent_hosts: Collection[str] = ()) -> None:
        """Say what is new, and what is over.

        Args:
            standing: All that stands now, of all groups together.
            silent_hosts: Those that tell nothing now: what stood there is not over.
        """
        kept = {key for key in self._told if key[1] in silent_hosts}
        for key in sorted(standing.keys() - self._told):
            self._say(standing[key])
        for key in sorted(self._told - standing.keys() - kept):
            event = over(key)
            if event is not None:
                self._say(event)
        self._told = kept | set(standing)
