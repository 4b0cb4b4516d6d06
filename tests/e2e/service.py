"""Groups in service: an installation that is up, with what looks at it, and the stream of GETs through it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import libvirt

from tests.e2e.owner import CONFIG, own_domains
from tests.e2e.power import Power
from tests.e2e.steady import Steady
from tests.e2e.whole import Whole
from tests.e2e.world import World, wait_until

BOOT_S = 120.0  # generous: guests boot in software emulation beside everything else on two cores
MakeWorld = Callable[..., World]


@dataclass(frozen=True)
class Service:
    """A group of so many domains in service: the installation, and what libvirt says of their power."""

    whole: Whole
    power: Power
    count: int

    @property
    def world(self) -> World:
        """Return the installation."""
        return self.whole.world

    def wait_until_whole(self) -> None:
        """Return when all of them are in rotation."""
        wait_until(lambda: len(self.whole.ready()) == self.count, BOOT_S, f"{self.count} domain(s) in rotation")


@contextmanager
def in_service(world: World, count: int, rate: float = 20.0) -> Iterator[Service]:
    """Bring the installation up, and give it once so many domains serve; ``rate`` GETs a second run through it."""
    world.autoscaler("up")
    try:
        with Steady(world, rate) as steady, Power(f"{world.name}-") as power:
            service = Service(Whole(world, steady), power, count)
            try:
                service.wait_until_whole()
                yield service
            finally:
                service.whole.close()
    finally:
        world.autoscaler("down")


@contextmanager
def owners_group(
    make_world: MakeWorld,
    images: Path,
    name: str,
    number: int,
    minimum: int,
    extra: str = "",
    readiness: str = "",
    running: int = 1,
) -> Iterator[tuple[World, list[libvirt.virDomain]]]:
    """Make three domains of somebody's, of which so many run, and an installation that is to run them as a group."""
    connection = libvirt.open("qemu:///system")
    try:
        with own_domains(connection, images, name, 150 + number, 3, running) as domains:
            world = make_world(name, number)
            places = {"run_dir": world.run_dir, "state_dir": world.state_dir, "port": world.port}
            text = CONFIG.format(group="web", name=name, minimum=minimum, extra=extra, **places)
            world.config.write_text(text + readiness, encoding="utf-8")
            yield world, domains
    finally:
        connection.close()
