"""Why nobody answers: "not running" only where it is known, and else the reasons, the likeliest first."""

from dataclasses import replace
from pathlib import Path

import pytest

from cli.unreached import Seen, look, why
from common.config import Bus, Config, Group, System

SEEN = Seen("ipc:///run/x/decider.sock", "/etc/a.toml", running=("our supervisord", "decider (process 12)"))
HEAD = (
    "nobody answered at ipc:///run/x/decider.sock (from /etc/a.toml), "
    "but this runs: our supervisord, decider (process 12). Maybe "
)
STOPPED = "the services are stopped, or hang: see their logs"
OTHER = "it was started with another configuration: /etc/b.toml (autoscaler --config /etc/b.toml …)"


def test_not_running_is_said_where_it_is_known() -> None:
    seen = replace(SEEN, running=())
    assert why(seen) == "not running: make up"
    assert why(replace(seen, is_served=True)) == "not running: make up; HAProxy serves on"
    assert why(replace(seen, others=("/etc/b.toml",))) == (
        "not running: make up; another configuration runs on this machine: "
        "/etc/b.toml (autoscaler --config /etc/b.toml …)"
    )


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        ({"origin": "/etc/a.toml"}, [STOPPED]),
        ({"origin": "/etc/b.toml"}, [OTHER, STOPPED]),
        ({"origin": None, "others": ("/etc/b.toml",)}, [OTHER, STOPPED]),
        (
            {"origin": None},
            ["it was started with another configuration; its run directory does not tell which", STOPPED],
        ),
        (
            {"origin": "/etc/a.toml", "is_changed": True},
            ["/etc/a.toml, or a variable, says something else than when it was started", STOPPED],
        ),
        ({"origin": "/etc/b.toml", "is_tcp": True, "keys": "no key"}, [OTHER, "no key", STOPPED]),
        (
            {"origin": "/etc/a.toml", "is_tcp": True},
            ["it asks for keys, and this configuration has none (bus.keys_dir)", STOPPED],
        ),
    ],
)
def test_the_reasons_that_are_possible_are_named_in_their_order(change: dict[str, object], reasons: list[str]) -> None:
    assert why(replace(SEEN, **change)) == HEAD + ". Or ".join(reasons)  # type: ignore[arg-type]


def test_what_cannot_be_seen_is_not_called_stopped() -> None:
    said = why(replace(SEEN, running=(), unseen="that is another machine"))
    assert "(from /etc/a.toml), and that is another machine. Maybe it was started with another configuration" in said
    assert "make up" not in said


def test_another_machine_is_known_by_its_address(tmp_path: Path) -> None:
    endpoints = {name: f"tcp://192.0.2.7:{9000 + 2 * at}" for at, name in enumerate(SERVICES)}
    system = System(run_dir=str(tmp_path / "run"), state_dir=str(tmp_path))
    bus = Bus(transport="tcp", endpoints=endpoints, keys_dir=str(tmp_path / "keys"))
    config = Config(system=system, bus=bus, groups={"web": Group(prefix="web-")})
    seen = look(config, tmp_path / "a.toml")
    assert (seen.running, seen.unseen) == ((), "that is another machine")
    assert seen.keys == f"keys are missing in {tmp_path / 'keys'}: autoscaler keys --help"
    assert not seen.is_known_stopped


SERVICES = ("monitor", "decider", "actuator", "balancer", "plotter", "recorder", "exporter", "notifier")
