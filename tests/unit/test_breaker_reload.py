"""Starts that failed are tried at once when the group's configuration has changed, by a reload or before a restart."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.clock import boot_id
from common.config import Config, Group
from services.actuator.core import breaker as breakers
from services.actuator.core.breaker import CLOSED, Breaker
from services.actuator.core.start_terms import start_terms, tried_at_once
from services.actuator.store import Stored, read, write
from tests.integration.actuator_fakes import CLOCK, Stand

OPEN = Breaker(4, 2, 160.0, 100.0, ("u",), 2, 90.0, 1)
HELD = "4 starts in a row failed; the next trial is in"
KEY = breakers.key("web", "local")
OLD = {"prefix": "web-", "min": 0, "boot_timeout_s": 1.0}
MENDED = OLD | {"boot_timeout_s": 90.0}
LARGER = OLD | {"max": 6}


# --- one breaker ----------------------------------------------------------------------------------------------------


def test_an_open_breaker_that_is_tried_again_lets_one_trial_through_now() -> None:
    tried = breakers.tried_again(OPEN, 130.0)
    assert breakers.is_half_open(tried, 130.0) and not breakers.why_held(tried, 130.0)
    assert (tried.openings, tried.failures, tried.relapses, tried.held) == (2, 4, 2, 1)


def test_a_trial_that_fails_after_it_was_tried_again_waits_longer_than_the_last_one() -> None:
    again = breakers.failed(breakers.tried_again(OPEN, 130.0), 135.0, "u")
    assert (again.openings, again.open_until_s) == (3, 135.0 + 240.0)


@pytest.mark.parametrize(
    "breaker", [CLOSED, Breaker(2, 0, None, 99.0), Breaker(3, 1, 120.0, 60.0), Breaker(relapses=3)]
)
def test_a_breaker_that_is_not_open_stays_as_it_is(breaker: Breaker) -> None:
    assert breakers.tried_again(breaker, 130.0) == breaker


# --- the breakers of a group ----------------------------------------------------------------------------------------


def test_all_open_breakers_of_a_changed_group_are_tried_and_nobody_elses() -> None:
    own = [KEY, breakers.key("web", "far", "cloned"), breakers.domain_key("web", "local", "a.b")]
    others = [breakers.key("web-2", "local"), breakers.key("job", "local")]
    known = dict.fromkeys([*own, *others], OPEN) | {breakers.sick_key("web"): Breaker(relapses=3)}
    before = {"web": "a", "web-2": "a"}
    tried = tried_at_once(known, before, {"web": "b", "web-2": "a", "job": "b"}, 130.0)
    assert tried == dict.fromkeys(own, breakers.tried_again(OPEN, 130.0))


@pytest.mark.parametrize(
    ("changes", "is_other"),
    [
        ({}, False),
        ({"min": 2, "max": 6, "surge": 2, "mode": "out-only"}, False),
        ({"cooldown_out_s": 1.0, "cooldown_in_s": 1.0, "max_step_out": 1, "max_step_in": 2}, False),
        ({"patience_s": 1.0, "patience_memory_s": 1.0, "cpu_without_requests": "count"}, False),
        ({"policies": [{"type": "threshold", "high_ratio": 0.9}]}, False),
        ({"boot_timeout_s": 90.0}, True),
        ({"start_timeout_s": 5.0}, True),
        ({"image": {"memory_mib": 256}}, True),
        ({"readiness": {"path": "/other"}}, True),
        ({"warm": {"paused": 1}}, True),
        ({"port": 81}, True),
    ],
)
def test_what_only_scales_is_no_other_way_to_start(changes: dict[str, object], is_other: bool) -> None:
    assert (start_terms(Group.model_validate(OLD | changes)) != start_terms(Group.model_validate(OLD))) is is_other


# --- the store ------------------------------------------------------------------------------------------------------


def test_terms_are_stored_and_a_store_without_them_is_read(tmp_path: Path) -> None:
    path = tmp_path / "actuator.json"
    write(path, Stored({KEY: OPEN}, terms={"web": "0123abcd"}), "b")
    assert read(path, 120.0, "b") == Stored({KEY: OPEN}, terms={"web": "0123abcd"})
    values = json.loads(path.read_text())
    del values["terms"]
    path.write_text(json.dumps(values))
    assert read(path, 120.0, "b") == Stored({KEY: OPEN})


# --- the service ----------------------------------------------------------------------------------------------------


class Reloaded(Stand):
    """The service on one host in memory, and the way in which a changed file reaches it."""

    def reload(self, group: dict[str, object]) -> None:
        assert self._service is not None
        self._service.reload(self.changed(group), CLOCK.monotonic_s())

    def changed(self, group: dict[str, object]) -> Config:
        """Return the configuration with another one of the group."""
        return self.config.model_copy(update={"groups": {"web": Group.model_validate(group)}})


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Reloaded]:
    made = Reloaded(tmp_path, {"web": OLD})
    made.want("web", 1)
    yield made
    made.close()


def remember(stand: Reloaded, terms: dict[str, str]) -> None:
    """Store a breaker that is open for an hour, as an actuator left it that ran under ``terms``."""
    now_s = CLOCK.monotonic_s()
    path = stand.config.system.state_path / "actuator.json"
    write(path, Stored({KEY: Breaker(4, 2, now_s + 3600.0, now_s - 60.0)}, terms=terms), boot_id())


def is_held(stand: Reloaded) -> bool:
    return bool(stand.memberships()) and HELD in stand.memberships()[-1].blocked


def is_tried(stand: Reloaded) -> bool:
    return bool(stand.records()) and not is_held(stand)


def watch(stand: Reloaded) -> None:
    """Let the service turn some more: nothing is started."""
    for _ in range(10):
        stand.turn()
    assert is_held(stand) and not stand.records()


def test_a_reload_with_another_boot_timeout_ends_the_wait_and_one_with_another_max_does_not(stand: Reloaded) -> None:
    remember(stand, {"web": start_terms(Group.model_validate(OLD))})
    stand.start()
    stand.run_until(lambda: is_held(stand))
    stand.reload(LARGER)
    watch(stand)
    stand.reload(MENDED | {"max": 6})
    stand.run_until(lambda: is_tried(stand))
    assert stand.memberships()[-1].breaker == "half-open"
    kept = read(stand.config.system.state_path / "actuator.json", CLOCK.monotonic_s(), boot_id())
    assert kept.breakers[KEY].openings == 2 and kept.terms == {"web": start_terms(Group.model_validate(MENDED))}


def test_a_restart_with_another_boot_timeout_ends_the_wait(stand: Reloaded) -> None:
    remember(stand, {"web": start_terms(Group.model_validate(OLD))})
    stand.config = stand.changed(MENDED)
    stand.start()
    stand.run_until(lambda: is_tried(stand))
    assert not any(HELD in body.blocked for body in stand.memberships())


@pytest.mark.parametrize("terms", [{"web": start_terms(Group.model_validate(OLD))}, {}], ids=["same", "older release"])
def test_a_restart_with_nothing_that_is_known_to_have_changed_waits_on(stand: Reloaded, terms: dict[str, str]) -> None:
    remember(stand, terms)
    stand.config = stand.changed(LARGER)
    stand.start()
    stand.run_until(lambda: is_held(stand))
    watch(stand)
