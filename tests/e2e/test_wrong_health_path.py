"""A health path that nobody answers: told at once on every screen, and no reason to lose a group that serves."""

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.world import ROOT, World, wait_until

NAME, NUMBER = "ase19", 19
TOLD_S = 15.0  # after its boot, where three other things run on the machine; `status` alone takes a second


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> Iterator[World]:
    world = make_world(NAME, NUMBER, group_extra="boot_timeout_s = 60.0")
    asks_for(world, "/health")
    yield world


def asks_for(world: World, path: str) -> None:
    text = world.config.read_text(encoding="utf-8").partition("[groups.web.readiness]")[0]
    world.config.write_text(f'{text}[groups.web.readiness]\npath = "{path}"\n', encoding="utf-8")


def said(world: World, *command: str) -> str:
    done = world.autoscaler(*command, check=False)
    return done.stdout + done.stderr


def test_a_wrong_path_is_told_while_up_waits_and_by_status_explain_doctor_and_events(world: World) -> None:
    command = [sys.executable, "-m", "cli", "--config", str(world.config), "up"]
    up = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        sentence = f"{NAME}-0000 192.168.{160 + NUMBER}.10:8080/health answers 404; readiness wants 200"
        why = wait_until(lambda: unready(world), 120, "what the first domain answers")
        assert why["text"] == sentence and (why["kind"], why["came"], why["path"]) == ("status", "404", "/health")
        assert sentence in " ".join(said(world, "status").split())
        assert sentence in said(world, "events")
        wait_until(lambda: sentence in said(world, "explain"), TOLD_S, "explain to tell it")
        assert sentence in " ".join(said(world, "doctor", "--group", "web").split())
    finally:
        up.terminate()
        shown, _ = up.communicate(timeout=30)
    assert "answers 404; readiness wants 200" in " ".join(shown.split()), shown


def unready(world: World) -> dict[str, str] | None:
    domains = world.group()["domains"]
    why: dict[str, str] | None = domains[0]["unready"] if domains else None
    return why if why and why["kind"] == "status" else None


def test_a_path_that_those_who_serve_do_not_answer_is_refused_and_they_go_on(world: World) -> None:
    asks_for(world, "/healthz")
    world.autoscaler("up")
    asks_for(world, "/nope")
    done = world.autoscaler("up", check=False)
    assert done.returncode == 1
    assert "nothing was changed: web would be out of service: ase19-000" in done.stderr, done.stderr
    assert ":8080/nope answers 404; readiness wants 200" in done.stderr and "FORCE=1" in done.stderr
    assert world.get("/")[0] != 503 and world.group()["ready"] == 1
