"""Which processes there are, and which of them run with a configuration."""

import tomllib
from pathlib import Path

from common import config_file
from common.config import Config, Group, Metrics, Notification
from common.messaging.addresses import control_address, publish_address
from common.services import ALL_SERVICES, OPTIONAL_SERVICES, SERVICES

ROOT = Path(__file__).resolve().parents[2]
WEB = {"web": Group(prefix="web-")}


def test_every_service_is_a_package_and_every_package_a_service() -> None:
    packages = {path.parent.name for path in (ROOT / "services").glob("*/__main__.py")}
    assert packages == set(ALL_SERVICES)


def test_the_walls_between_services_stand_around_all_of_them() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    independent = next(contract for contract in contracts if contract["type"] == "independence")
    assert {name.removeprefix("services.") for name in independent["modules"]} == set(ALL_SERVICES)


def test_the_exporter_runs_unless_it_is_switched_off() -> None:
    assert Config(groups=WEB).services == (*SERVICES, "exporter")
    assert Config(groups=WEB, metrics=Metrics(listen="")).services == SERVICES


def test_the_notifier_runs_where_somebody_is_to_be_told() -> None:
    config = Config(groups=WEB, notifications=(Notification(command=("/bin/true",)),))
    assert config.services == ALL_SERVICES


def test_an_optional_service_without_endpoint_stays_on_its_machine() -> None:
    endpoints = ", ".join(f'{name} = "tcp://127.0.0.1:{7000 + 2 * at}"' for at, name in enumerate(SERVICES))
    text = f'[bus]\ntransport = "tcp"\nendpoints = {{ {endpoints} }}\n[groups.web]\nprefix = "web-"\n'
    config = config_file.parse(text.encode(), "a.toml")
    for name in OPTIONAL_SERVICES:
        assert publish_address(config, name).startswith("ipc://")
        assert control_address(config, name).startswith("ipc://")
    assert publish_address(config, "monitor").startswith("tcp://")
