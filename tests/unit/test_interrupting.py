"""A changed file that would interrupt service is refused before anything is changed."""

from pathlib import Path
from typing import Any

import pytest

from cli import interrupting, stack
from cli.interrupting import abandoning, refuse_interrupting
from cli.supervisor_config import keeps_haproxy, supervisor_config
from common import in_force
from common.clock import SystemClock
from common.config import SERVICES, Config, System
from common.config_file import read
from common.domain import DomainFacts, DomainState
from common.errors import AutoscalerError
from common.phases import Phase
from services.actuator.core.record import Record

FORCE = "If it is meant: make up FORCE=1 (up --force)"
HOSTS = {"local": {"uri": "qemu:///system"}, "far": {"uri": "qemu+ssh://far/system"}}


def config(**changes: Any) -> Config:
    group = {"prefix": "web-", "hosts": ["local", "far"], "endpoint": "*:8000"} | changes.pop("group", {})
    return Config.model_validate({"hosts": HOSTS, "groups": {changes.pop("name", "web"): group}} | changes)


def domain(name: str, template: str = "t", state: DomainState = DomainState.RUNNING) -> tuple[DomainFacts, Record]:
    record = Record(
        group="web",
        uuid=name,
        host="local",
        phase=Phase.READY,
        since_mono_s=0,
        since_s=0,
        boot_id="",
        template=template,
    )
    return DomainFacts(name, name, state, "", True, record.to_metadata()), record


RUNNING = {"local": [domain("web-0000"), domain("web-0001")], "far": [domain("web-0002")]}
NO_MORE = "would serve no more, and others have to boot first"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"group": {"prefix": "shop-"}}, f"groups.web.prefix web- → shop-: web-0000 and 2 more {NO_MORE}"),
        ({"group": {"hosts": ["local"]}}, f"groups.web.hosts changed: web-0002 {NO_MORE}"),
        (
            {"hosts": HOSTS | {"far": {"uri": "qemu+ssh://farther/system"}}},
            f"hosts.far.uri qemu+ssh://far/system → qemu+ssh://farther/system: web-0002 {NO_MORE}",
        ),
        (
            {"network": {"subnet": "10.9.0.0/24"}},
            f"network.subnet 192.168.150.0/24 → 10.9.0.0/24: web-0000 and 2 more {NO_MORE}",
        ),
        ({"network": {"bridge": "asbr9"}}, f"network.bridge asbr0 → asbr9: web-0000 and 2 more {NO_MORE}"),
        ({"network": {"name": "other"}}, f"network.name autoscaler → other: web-0000 and 2 more {NO_MORE}"),
        ({"name": "shop", "group": {"prefix": "shop-"}}, f"groups.web is gone: web-0000 and 2 more {NO_MORE}"),
    ],
)
def test_a_key_by_which_domains_are_known_is_named_with_those_that_it_would_cut_off(
    changed: dict[str, Any], said: str
) -> None:
    assert abandoning(config(), config(**changed), RUNNING) == [said]


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"group": {"endpoint": "*:9000"}},
        {"group": {"max": 9, "port": 81, "image": {"memory_mib": 512}}},
        {"group": {"hosts": ["near", "far"]}, "hosts": {"near": HOSTS["local"], "far": HOSTS["far"]}},
        {"network": {"slots": 100, "name_servers": ["1.1.1.1"]}},
        {"name": "shop", "group": {"prefix": "shop-", "endpoint": "*:9000"}},  # a group that is gone is meant to go
    ],
)
def test_what_leaves_the_domains_with_their_group_is_no_interruption(changed: dict[str, Any]) -> None:
    assert abandoning(config(), config(**changed), RUNNING) == []


def test_a_users_own_domains_are_on_no_network_of_ours() -> None:
    taken_in = {"local": [domain("web-0000", template="")]}
    assert abandoning(config(), config(network={"name": "other"}), taken_in) == []
    assert abandoning(config(), config(group={"prefix": "shop-"}), taken_in) != []


TEXT = '[system]\nrun_dir = "{0}/run"\nstate_dir = "{0}/state"\n[groups.web]\nprefix = "web-"\n'


class Host:
    """Has one domain of ours that runs, and one that is off."""

    def domains(self) -> list[DomainFacts]:
        return [domain("web-0000")[0], domain("web-0001", state=DomainState.SHUTOFF)[0]]

    def close(self) -> None:
        pass


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file that is in force; what is to run with it does."""
    path = tmp_path / "autoscaler.toml"
    path.write_text(TEXT.format(tmp_path))
    (tmp_path / "run").mkdir(mode=0o700)
    in_force.keep(tmp_path / "run", read(path, {}).source)
    monkeypatch.setattr(interrupting, "is_supervised", lambda _system: True)
    monkeypatch.setattr(interrupting.Connection, "open", lambda *_args, **_kwargs: Host())
    return path


def refusal(file: Path, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(AutoscalerError) as caught:
        refuse_interrupting(read(file, {}).config, environ=environ or {})
    return str(caught.value)


def test_a_changed_prefix_is_refused_with_who_serves_and_how_to_mean_it(file: Path) -> None:
    refuse_interrupting(read(file, {}).config, environ={})
    file.write_text(file.read_text().replace("web-", "shop-"))
    said = f"groups.web.prefix web- → shop-: web-0000 {NO_MORE}"
    assert refusal(file) == f"nothing was changed: {said}. {FORCE}"
    refuse_interrupting(read(file, {}).config, environ={}, is_forced=True)


def test_a_changed_state_directory_or_variable_is_refused_for_haproxy_is_started_anew(file: Path) -> None:
    place = file.parent / "state"
    file.write_text(file.read_text().replace("/state", "/state/"))
    refuse_interrupting(read(file, {}).config, environ={})
    said = (
        f"nothing was changed: the environment sets AUTOSCALER_GROUPS__WEB__MAX otherwise than it did: {{0}}. {FORCE}"
    )
    assert refusal(file, {"AUTOSCALER_GROUPS__WEB__MAX": "3"}) == said.format(interrupting.ANEW)
    file.write_text(file.read_text().replace("/state/", "/other"))
    said = f"nothing was changed: system.state_dir {place} → {file.parent}/other: {interrupting.ANEW}. {FORCE}"
    assert refusal(file) == said


@pytest.mark.parametrize("key", [key for key in System.model_fields if key != "run_dir"])
def test_every_key_with_which_haproxy_is_not_kept_is_known(key: str, file: Path) -> None:
    values = {"state_dir": f"{file.parent}/other", "log_level": "debug"}
    old = read(file, {})
    changed = {key: values.get(key) or getattr(old.config.system, key) * 2}
    system = old.config.system.model_copy(update=changed)
    texts = [supervisor_config(s, SERVICES, file, Path("/python"), Path("/opt")) for s in (old.config.system, system)]
    is_named = bool(interrupting.restarting(old, old.config.model_copy(update={"system": system}), {}))
    assert keeps_haproxy(*texts) is not is_named


def test_nothing_is_refused_while_nothing_runs_or_nobody_knows_what_does(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(file.read_text().replace("/state", "/other"))
    config = read(file, {}).config
    with monkeypatch.context() as patch:
        patch.setattr(interrupting, "is_supervised", lambda _system: False)
        refuse_interrupting(config, environ={})
    in_force.place(file.parent / "run").unlink()
    refuse_interrupting(config, environ={})


def test_up_refuses_before_it_makes_a_directory(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(file.read_text().replace("/state", "/other"))
    monkeypatch.setattr(stack, "require_root", lambda: None)
    monkeypatch.setattr(stack, "refuse_other_tree", lambda *_args, **_kwargs: None)
    with pytest.raises(AutoscalerError, match=r"system\.state_dir"):
        stack.up(file, SystemClock())
    assert not (file.parent / "other").exists()
