"""Listens to everybody; shows at one address what they said. When it fails, nothing else notices.

The bus's thread replaces the state, the page's threads read it: a state never changes, so neither waits for the other.
An address that is taken does not end the process: it is tried again, now and then.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from common import __version__
from common.bus import Inbox
from common.config import Config
from common.log import Quiet, logger
from common.messages import PROTOCOL_VERSION
from common.process import Context
from services.exporter.core.render import Sample, render
from services.exporter.core.state import Scope, begin, handle
from services.exporter.page import registry_of
from services.exporter.server import PageServer

IDLE_S: Final = 60.0
RETRY_S: Final = 5.0
SAY_AGAIN_S: Final = 900.0
SILENT_PERIODS: Final = 3.0  # of republish_s, as ``autoscaler status`` counts them
KINDS: Final = {
    "monitor": ("sample", "failure", "event", "service"),
    "decider": ("capacity.desired", "decision", "event", "service"),
    "actuator": ("membership", "event", "service"),
    "balancer": ("drain", "traffic", "event", "service"),
}
OTHERS: Final = ("event", "service")


def scope_of(config: Config) -> Scope:
    """Return what is configured, as the core needs it.

    A standing message is repeated every ``republish_s``: where that is longer than ``stale_after_s``, it is waited for.
    """
    system = config.system
    return Scope(
        ceilings={name: group.ceiling for name, group in config.groups.items()},
        prefixes={name: group.prefix for name, group in config.groups.items()},
        hosts=tuple(config.hosts),
        services=config.services,
        stale_after_s=max(system.stale_after_s, 1.5 * system.republish_s),
        silent_after_s=SILENT_PERIODS * system.republish_s,
    )


class ExporterService:
    """One page for the whole system."""

    def __init__(self, context: Context) -> None:
        """Listen to every service of this configuration, and to itself: its own line must not be missing."""
        self._clock, self._bus = context.clock, context.bus
        self._listen = context.config.metrics.listen
        self._state = begin(scope_of(context.config), self._clock.monotonic_s())
        self._server: PageServer | None = None
        self._retry_at_s = 0.0
        self._quiet = Quiet(SAY_AGAIN_S)
        if not self._listen:
            logger().info("nothing-to-do", reason="metrics.listen is empty")
            return
        self._bus.keep_every_message()
        for service in context.config.services:
            self._bus.subscribe(service, *KINDS.get(service, OTHERS))

    def step(self, inbox: Inbox, now_s: float) -> float:
        """Remember what arrived; open the page if it is not open yet."""
        for message in inbox.messages:
            self._state = handle(self._state, message, now_s)
        if not self._listen or self._server is not None:
            return IDLE_S
        if now_s >= self._retry_at_s:
            self._open(now_s)
        return RETRY_S if self._server is None else IDLE_S

    def reload(self, config: Config, now_s: float) -> None:
        """Go by the new bounds."""
        del now_s
        self._state = replace(self._state, scope=scope_of(config))

    def close(self) -> None:
        """Close the page."""
        if self._server is not None:
            self._server.close()

    def _open(self, now_s: float) -> None:
        try:
            self._server = PageServer(self._listen, registry_of(self._samples), self._clock)
        except OSError as error:
            self._retry_at_s = now_s + RETRY_S
            self._bus.counters["listen_failed"] += 1
            if self._quiet.may_say(error.errno, now_s):
                logger().error("page-not-open", listen=self._listen, reason=error.strerror, retry_s=RETRY_S)
            return
        logger().info("page-open", listen=self._listen)

    def _samples(self) -> Sequence[Sample]:
        build = Sample("autoscaler_build_info", (__version__, str(PROTOCOL_VERSION)), 1.0)
        return (*render(self._state, self._clock.monotonic_s()), build)
