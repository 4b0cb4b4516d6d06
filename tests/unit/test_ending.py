"""How HAProxy's end is told: what is written, what is read back, and what of it is believed."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from common.config import Config
from services.balancer.core import ending
from services.balancer.core.ending import DEFAULT_S, LONGEST_S, Ending
from services.balancer.files import write_config

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (Ending(0, 30), ""),
        (Ending(1, 30), "HAProxy takes nothing new; 1 request in flight may end within 30 s"),
        (Ending(2, 0.5), "HAProxy takes nothing new; 2 requests in flight may end within 0.5 s"),
        (
            Ending(0, 30, is_whole=False),
            "HAProxy takes nothing new; a process of it does not say what it has in flight, which may end within 30 s",
        ),
        (Ending(2, 30, is_whole=False), "HAProxy takes nothing new; at least 2 requests in flight may end within 30 s"),
        (Ending(0, 30, 30.1, cut=0, is_whole=False), "what was still in flight after 30 s is not known, and was cut"),
        (Ending(0, 30, 4.2, cut=0), ""),
        (Ending(0, 30, 30.1, cut=1), "1 request was cut after 30 s"),
        (Ending(0, 30, 30.1, cut=3, is_whole=False), "at least 3 requests were cut after 30 s"),
    ],
)
def test_what_is_told_is_read_back_and_said_in_words(tmp_path: Path, told: Ending, text: str) -> None:
    ending.write(tmp_path, told)
    assert ending.read(tmp_path) == told
    assert told.text == text
    ending.forget(tmp_path)
    assert ending.read(tmp_path) is None


@pytest.mark.parametrize("change", [{"in_flight": -1}, {"cut": True}, {"at_most_s": 1e99}, {"waited_s": "x"}])
def test_what_cannot_be_true_is_not_told(tmp_path: Path, change: dict[str, Any]) -> None:
    told = {"in_flight": 1, "at_most_s": 30, "waited_s": 1, "cut": None, "is_whole": True}
    path = tmp_path / "haproxy.ending"
    path.write_text(json.dumps(told), encoding="utf-8")
    assert ending.read(tmp_path) == Ending(1, 30, 1)
    path.write_text(json.dumps(told | change), encoding="utf-8")
    assert ending.read(tmp_path) is None
    for text in ("", "[]", "{", "{}"):
        path.write_text(text, encoding="utf-8")
        assert ending.read(tmp_path) is None


@pytest.mark.parametrize("text", ["", "x", "-1", "nan", "1e9"])
def test_a_bound_that_cannot_be_one_is_the_default(tmp_path: Path, text: str) -> None:
    assert ending.read_bound(tmp_path) == DEFAULT_S
    ending.write_bound(tmp_path, 12.5)
    assert ending.read_bound(tmp_path) == 12.5
    (tmp_path / "haproxy.drain").write_text(text, encoding="utf-8")
    assert ending.read_bound(tmp_path) == DEFAULT_S


def seconds(text: str) -> float:
    """Return a span of time as systemd and compose write it."""
    return float(text[:-1]) * {"h": 3600, "d": 86400}[text[-1]]


@pytest.mark.parametrize(
    ("file", "signal", "limit"),
    [
        ("packaging/systemd/libvirt-autoscaler-haproxy.service", "\nKillSignal=SIGUSR1\n", r"\nTimeoutStopSec=(\w+)\n"),
        (
            "docker-compose.yml",
            r'command: \["haproxy"\](\n +#.*)*\n +stop_signal: SIGUSR1\n',
            r"SIGUSR1\n +stop_grace_period: (\w+)\n",
        ),
    ],
)
def test_whoever_runs_haproxy_waits_for_longer_than_any_drain_may_last(file: str, signal: str, limit: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    assert re.search(signal, text)
    found = re.search(limit, text)
    assert found is not None
    assert seconds(found[1]) > LONGEST_S


def test_bound_is_written(tmp_path: Path) -> None:
    groups = {
        "web": {"prefix": "web-", "drain_timeout_s": 7},
        "api": {"prefix": "api-", "endpoint": "127.0.0.1:8001", "drain_timeout_s": 45},
    }
    system = {"run_dir": f"{tmp_path}/run", "state_dir": f"{tmp_path}/state"}
    config = Config.model_validate({"system": system, "groups": groups})
    (tmp_path / "run").mkdir()
    ending.write(tmp_path / "run", Ending(0, 30, 30.0, cut=2))
    write_config(config)
    assert ending.read_bound(tmp_path / "run") == 45
    assert ending.read(tmp_path / "run") is None, "that was told of an earlier end"
