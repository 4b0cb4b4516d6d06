"""The commented policies in ``autoscaler.toml``: they name every key, and work when the comment sign is taken away."""

import re
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest

from common.config import Group, Policy, Schedule
from common.config_policies import TARGETS
from common.config_table import Table

TEXT = (Path(__file__).parents[2] / "autoscaler.toml").read_text()
HEADER = "# [[groups.web.policies]]"
KINDS: dict[str, type[Table]] = {kind.model_fields["type"].default: kind for kind in get_args(get_args(Policy)[0])}


def examples() -> dict[str, dict[str, Any]]:
    """Return the commented tables by their type."""
    found = {}
    for part in TEXT.split(HEADER)[1:]:
        lines = re.match(r"(\n#.*)*", part)
        assert lines is not None
        values = tomllib.loads(re.sub(r"(?m)^# ?", "", lines[0]))
        found[values["type"]] = values
    return found


def test_every_type_but_the_one_in_use_has_an_example() -> None:
    assert set(examples()) == set(KINDS) - {"threshold"}


def alternatives() -> set[str]:
    """Return the keys behind a second comment sign: another key excludes them, or they are not needed."""
    return set(re.findall(r"(?m)^# # (\w+) = ", TEXT))


@pytest.mark.parametrize("name", sorted(set(KINDS) - {"threshold"}))
def test_an_example_names_every_key(name: str) -> None:
    fields = set(KINDS[name].model_fields)
    assert set(examples()[name]) | (alternatives() & fields) == fields


def test_an_alternative_of_an_example_works_in_place_of_the_other_key() -> None:
    table = {key: value for key, value in examples()["schedule"].items() if key != "duration_s"}
    others = dict(re.findall(r"(?m)^# # (\w+) = (\S.*?)  ", TEXT))
    assert set(others) == {"until", "maximum"}
    table |= {key: tomllib.loads(f"key = {value}")["key"] for key, value in others.items()}
    policy = Group.model_validate({"prefix": "web-", "policies": [table]}).policies[0]
    assert isinstance(policy, Schedule) and (policy.until, policy.maximum) == ("30 17 * * MON-FRI", 6)


@pytest.mark.parametrize("name", sorted(set(KINDS) - {"threshold"}))
def test_an_example_works_with_the_target_of_its_metric_and_shows_the_defaults(name: str) -> None:
    values = examples()[name]
    kept = {key: value for key, value in values.items() if key not in TARGETS.values() or key == TARGETS["cpu"]}
    policy = Group.model_validate({"prefix": "web-", "policies": [kept]}).policies[0]
    for key, field in KINDS[name].model_fields.items():
        has_default = not field.is_required() and field.default is not None
        if has_default and key in kept and key != "zone":
            assert getattr(policy, key) == field.default, key
