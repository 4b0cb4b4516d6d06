"""The one list of processes: whoever starts, watches or packages services reads it here.

Which of them run with a configuration says ``Config.services``. An optional one that is started although it has nothing
to do stays idle, so that a fixed list of units or containers needs no conditions.
"""

from typing import Final

SERVICES: Final = ("monitor", "decider", "actuator", "balancer", "plotter", "recorder")
"""Those that always run."""

OPTIONAL_SERVICES: Final = ("exporter", "notifier")
"""Those that run where the configuration asks for them."""

ALL_SERVICES: Final = SERVICES + OPTIONAL_SERVICES
