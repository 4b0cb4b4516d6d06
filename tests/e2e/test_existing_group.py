"""A group of domains that the user made beforehand: started and stopped, never defined nor undefined."""

import http.client
from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import pytest

from tests.e2e.owner import CONFIG, own_domains
from tests.e2e.world import World, wait_until

NAME, SUBNET = "asex", 175
MISSING = f"1 more wanted, but no other domain named {NAME}-0000 and up exists"


@pytest.fixture(scope="module")
def connection() -> Iterator[libvirt.virConnect]:
    connection = libvirt.open("qemu:///system")
    yield connection
    connection.close()


@pytest.fixture(scope="module")
def owned(connection: libvirt.virConnect, images: Path) -> Iterator[list[libvirt.virDomain]]:
    """Return two domains, the first of them running, on a network of their owner's."""
    with own_domains(connection, images, NAME, SUBNET, count=2) as domains:
        yield domains


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World], owned: list[libvirt.virDomain]) -> World:
    """Return an installation that runs that group alone."""
    world = make_world(NAME, 5)
    places = {"run_dir": world.run_dir, "state_dir": world.state_dir, "port": world.port}
    world.config.write_text(CONFIG.format(group="own", name=NAME, minimum=1, extra="", **places), encoding="utf-8")
    world.autoscaler("up")
    return world


def phases(world: World) -> dict[str, str]:
    """Return the phase of every domain by name."""
    return {domain["name"]: domain["phase"] for domain in world.group("own")["domains"]}


def test_a_running_domain_is_adopted_without_a_restart(world: World, owned: list[libvirt.virDomain]) -> None:
    wait_until(lambda: phases(world).get("asex-0000") == "ready", 30, "its record, which follows the endpoint's answer")
    assert world.get("/healthz")[:2] == (200, "asex-0000")
    assert not owned[1].isActive()


def test_the_group_grows_by_starting_what_is_there(world: World, owned: list[libvirt.virDomain]) -> None:
    world.autoscaler("scale", "2")
    wait_until(lambda: phases(world).get("asex-0001") == "ready", 90, "the second domain in rotation")
    assert owned[1].isActive()


def test_more_than_exist_is_reported_not_made(world: World) -> None:
    world.autoscaler("scale", "3")
    wait_until(lambda: MISSING in (world.group("own")["blocked"] or ""), 15, "a word about the missing third domain")
    assert world.domains() == ["asex-0000", "asex-0001"]
    world.autoscaler("scale", "2")


def test_the_group_shrinks_by_shutting_down_and_keeps_the_definition(
    world: World, owned: list[libvirt.virDomain]
) -> None:
    world.autoscaler("scale", "1")
    wait_until(lambda: sum(domain.isActive() for domain in owned) == 1, 60, "one domain shut down")
    assert world.domains() == ["asex-0000", "asex-0001"]


def test_one_that_its_owner_starts_stays_in_a_paused_group_too(world: World, owned: list[libvirt.virDomain]) -> None:
    world.autoscaler("pause")
    extra = next(domain for domain in owned if not domain.isActive())
    extra.create()
    wait_until(lambda: phases(world).get(extra.name()) == "ready", 90, "the domain that its owner started in rotation")
    wait_until(lambda: world.group("own")["desired"] == 2, 10, "the desired capacity to follow")
    told = world.autoscaler("events", "--since", "2m").stdout
    assert "scale-followed" in told and f"from 1 to 2: started by their owner: {extra.name()}" in told
    assert all(domain.isActive() for domain in owned)
    world.autoscaler("resume")


def test_down_leaves_the_owners_domains_as_they_are(world: World, owned: list[libvirt.virDomain]) -> None:
    before = [domain.isActive() for domain in owned]
    world.autoscaler("down")
    assert [domain.isActive() for domain in owned] == before
    assert not (world.state_dir / "haproxy.state").exists(), "the next HAProxy begins with empty slots"
    assert not any(
        "autoscaler" in domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE).split("cmdline")[0] for domain in owned
    )


def test_up_after_down_answers_when_they_are_taken_in_again_and_cuts_nobody(
    world: World, owned: list[libvirt.virDomain]
) -> None:
    assert any(domain.isActive() for domain in owned)
    world.autoscaler("up")
    connection = http.client.HTTPConnection("127.0.0.1", world.port, timeout=60)
    connection.request("POST", "/slow?ms=6000", b"x")
    assert connection.getresponse().status == 200
    connection.close()
    told = world.autoscaler("events", "--since", "1m").stdout
    assert "slot-restored" not in told and "drain-forced" not in told
