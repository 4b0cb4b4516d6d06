"""``autoscaler reload``: taken over by all services or by none, and each one's answer is shown."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cli.observe import Snapshot
from cli.reload import MARKER, Reload, reload
from cli.status import status_values, status_view
from common import config_file, in_force
from common.config import Config
from common.errors import BusError, ConfigError
from common.messages import Reply, Request, ServiceStatus
from common.services import SERVICES


class Services:
    """Answers by name; every request is remembered."""

    def __init__(self, digest: str, **odd: Reply | Exception) -> None:
        self.digest, self.odd = digest, odd
        self.asked: list[tuple[str, bool]] = []

    def __call__(self, config: Config, service: str, request: Request, timeout_s: float) -> Reply:
        assert (request.verb, request.by) == ("reload", "me")
        self.asked.append((service, bool(request.args.get("check"))))
        odd = self.odd.get(service)
        if isinstance(odd, Exception):
            raise odd
        return odd or Reply(status="applied", reason="groups.web.max 4 → 6", data={"digest": self.digest, "path": "p"})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "autoscaler.toml"
    path.write_text(f'[system]\nrun_dir = "{tmp_path}"\n[metrics]\nlisten = ""\n[groups.web]\nprefix = "web-"\n')
    return path


def done(path: Path, **odd: Any) -> tuple[Reload, Services]:
    services = Services(config_file.load(path)[1], **odd)
    return reload(path, "me", services), services


def test_every_service_is_asked_whether_it_would_before_any_does(path: Path) -> None:
    found, services = done(path)
    names = {"monitor", "decider", "actuator", "balancer", "plotter", "recorder"}
    assert {name for name, is_trial in services.asked[:6] if is_trial} == names
    assert {name for name, is_trial in services.asked[6:] if not is_trial} == names
    assert found.is_applied
    assert found.text() == "applied: groups.web.max 4 → 6 (monitor, decider, actuator, balancer, plotter, recorder)"


@pytest.mark.parametrize("odd", [Reply(status="refused", reason="no"), BusError("no answer")])
def test_one_that_would_not_keeps_all_from_it(path: Path, odd: Any) -> None:
    found, services = done(path, balancer=odd)
    assert not found.is_applied
    assert all(is_trial for _, is_trial in services.asked)
    assert found.values()["services"]["balancer"] == {
        "status": "refused" if isinstance(odd, Reply) else "error",
        "reason": "no" if isinstance(odd, Reply) else "no answer",
    }
    assert found.text().endswith("nothing was changed: balancer would not take it over")


def test_where_nobody_answers_it_says_why(path: Path) -> None:
    nobody = Services("x", **dict.fromkeys(SERVICES, BusError("no answer")))
    found = reload(path, "me", nobody, why_silent=lambda: "nobody answered at A")
    assert found.reason.startswith("nothing was changed: monitor, ")
    assert found.reason.endswith("; nobody answered at A")
    one = Services("x", balancer=BusError("no answer"))
    assert "nobody" not in reload(path, "me", one, why_silent=lambda: "nobody answered at A").reason


def test_one_that_reads_another_file_keeps_all_from_it(path: Path) -> None:
    other = Reply(status="applied", data={"digest": "abc", "path": "/etc/other.toml"})
    found, services = done(path, monitor=other)
    assert "monitor reads /etc/other.toml (digest abc)" in found.reason
    assert not any(not is_trial for _, is_trial in services.asked)


def test_a_wrong_file_is_refused_before_anybody_is_asked(path: Path) -> None:
    path.write_text(path.read_text() + "max = 0\n")
    services = Services("x")
    with pytest.raises(ConfigError, match="greater than or equal to 1"):
        reload(path, "me", services)
    assert services.asked == []


def test_the_next_up_knows_what_was_taken_over(path: Path) -> None:
    done(path)
    marker = path.parent / MARKER
    assert not marker.exists()
    marker.write_text("before")
    done(path, balancer=Reply(status="refused"))
    assert marker.read_text() == "before"
    found, _ = done(path)
    assert marker.read_text() == found.digest


# --- what status says of it ------------------------------------------------------------------------------------------


def service(name: str, digest: str, note: str = "") -> ServiceStatus:
    return ServiceStatus(name=name, pid=1, started_at_s=0, release="1", config_digest=digest, note=note)


def test_status_shows_who_runs_with_another_configuration_and_what_they_note(path: Path) -> None:
    config, digest = config_file.load(path)
    snapshot = Snapshot(
        services={"decider": service("decider", digest, "disk full"), "monitor": service("monitor", "x")}
    )
    values = {one["name"]: one for one in status_values(config, snapshot, digest)["services"]}
    assert (values["monitor"]["config_digest"], values["decider"]["note"]) == ("x", "disk full")
    assert values["actuator"]["config_digest"] is None
    console = Console(width=200, record=True)
    console.print(status_view(config, snapshot, digest))
    shown = console.export_text()
    assert "decider: disk full" in shown
    assert f"the configuration has changed (digest {digest}) since monitor read it: make up" in shown  # none is known


def test_status_names_the_command_that_has_the_changed_file_taken_over(path: Path) -> None:
    in_force.keep(path.parent, config_file.read(path).source)
    for key, command in (("max = 9", "autoscaler reload"), ("port = 81", "make up")):
        text = path.read_text()
        path.write_text(f"{text}{key}\n")
        config, digest = config_file.load(path)
        path.write_text(text)
        console = Console(width=200, record=True)
        console.print(status_view(config, Snapshot(services={"monitor": service("monitor", "x")}), digest))
        assert console.export_text().rstrip().endswith(f"since monitor read it: {command}")
