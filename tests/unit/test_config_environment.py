"""Variables that set keys: which key, which value, and refusals that name the variable."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from cli.configuration import check, settings, text
from common import config_file
from common.config import Config
from common.config_environment import override
from common.config_policies import Threshold
from common.errors import ConfigError

FILE = """
[system]
interval_s = 1.0
[groups.web]
prefix = "web-"
max = 4
[[groups.web.policies]]
type = "threshold"
high_ratio = 0.8
[groups.batch-jobs]
prefix = "batch-"
endpoint = "127.0.0.1:8001"
kind = "existing"
address_source = "static"
addresses = { batch-0000 = "10.0.0.1" }
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "autoscaler.toml"
    path.write_text(FILE)
    return path


def load(path: Path, **variables: str) -> Config:
    return config_file.load(path, {f"AUTOSCALER_{name}": value for name, value in variables.items()})[0]


def refusal(path: Path, **variables: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, **variables)
    return str(caught.value)


def test_a_variable_beats_the_file_and_the_default(path: Path) -> None:
    config = load(path, SYSTEM__INTERVAL_S="2", GROUPS__WEB__MAX="6", GROUPS__WEB__MIN="2")
    web = config.groups["web"]
    assert (config.system.interval_s, web.maximum, web.minimum) == (2.0, 6, 2)


def test_an_entry_of_a_list_goes_by_its_number_and_the_others_stay(path: Path) -> None:
    policy = load(path, GROUPS__WEB__POLICIES__0__LOW_RATIO="0.2").groups["web"].policies[0]
    assert isinstance(policy, Threshold)
    assert (policy.low_ratio, policy.high_ratio) == (0.2, 0.8)


def test_a_new_policy_may_be_added_whatever_the_order_of_its_variables(path: Path) -> None:
    added = {"GROUPS__WEB__POLICIES__1__CAPACITY": "3", "GROUPS__WEB__POLICIES__1__CRON": "0 8 * * *"}
    added |= {"GROUPS__WEB__POLICIES__1__TYPE": "schedule", "GROUPS__WEB__POLICIES__1__DURATION_S": "3600"}
    assert [policy.type for policy in load(path, **added).groups["web"].policies] == ["threshold", "schedule"]


def test_a_name_with_a_dash_is_written_with_an_underscore(path: Path) -> None:
    config = load(path, GROUPS__BATCH_JOBS__MAX="9", GROUPS__BATCH_JOBS__ADDRESSES__BATCH_0000="10.0.0.2")
    batch = config.groups["batch-jobs"]
    assert (batch.maximum, batch.addresses) == (9, {"batch-0000": "10.0.0.2"})
    assert load(path, GROUPS__NEW_ONE__PREFIX="n-", GROUPS__NEW_ONE__ENDPOINT="127.0.0.1:1").groups["new-one"]


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("GROUPS__WEB__PREFIX", "w1-", "w1-"),
        ("GROUPS__WEB__KEEP_FAILED", "true", True),
        ("GROUPS__WEB__HOSTS", '["local"]', ["local"]),
        ("GROUPS__WEB__READINESS__IDENTITY", "false", False),
        ("GROUPS__WEB__WARM", "auto", "auto"),
        ("SYSTEM__LOG_LEVEL", "debug", "debug"),
        ("SYSTEM__RUN_DIR", "", ""),
    ],
)
def test_a_value_is_written_as_in_the_file_and_text_without_quotes(name: str, value: str, found: object) -> None:
    values: dict[str, Any] = tomllib.loads(FILE)
    (one,) = override(values, {f"AUTOSCALER_{name}": value})
    assert one.value == found
    for part in one.path:
        values = values[part]
    assert values == found


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SYSTEM__INTERVALL_S", "2", "AUTOSCALER_SYSTEM__INTERVALL_S: system.intervall_s: unknown key; did you mean"),
        ("SYSTEN__RUN_DIR", "/x", "AUTOSCALER_SYSTEN__RUN_DIR: systen: unknown key; did you mean 'system'?"),
        ("GROUPS__WEB__POLICIES__0__HIGH", "1", "groups.web.policies.0.high: unknown key"),
        ("GROUPS__WEB__MAX__X", "2", "AUTOSCALER_GROUPS__WEB__MAX__X: groups.web.max is a value, not a table"),
        ("GROUPS__WEB__POLICIES__7__MODE", "on", "groups.web.policies: an entry goes by its number, 0..1; got '7'"),
        ("GROUPS__WEB__POLICIES__X__MODE", "on", "an entry goes by its number, 0..1; got 'X'"),
        ("NOTIFICATIONS__\u00b2__URL", "x", "notifications: an entry goes by its number, 0..0; got '\u00b2'"),
        ("SYSTEM_INTERVAL_S", "2", "AUTOSCALER_SYSTEM_INTERVAL_S sets no key: two underscores part tables and keys"),
        ("GROUPS__WBE__MAX", "6", "groups.wbe.prefix: is required and missing (with AUTOSCALER_GROUPS__WBE__MAX set)"),
        ("GROUPS__WEB__MAX", "many", "AUTOSCALER_GROUPS__WEB__MAX: groups.web.max: input should be"),
        ("GROUPS__WEB__POLICIES__0__MODE", "off", "AUTOSCALER_GROUPS__WEB__POLICIES__0__MODE: groups.web."),
        ("SYSTEM__", "1", "AUTOSCALER_SYSTEM__: system.: unknown key"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_variable_the_key_and_what_is_allowed(path: Path, name: str, value: str, said: str) -> None:
    assert said in refusal(path, **{name: value})


def test_a_table_that_the_file_gives_as_a_value_is_not_entered(path: Path) -> None:
    path.write_text(FILE.replace("max = 4", 'max = 4\nwarm = "auto"'))
    said = refusal(path, GROUPS__WEB__WARM__RUNNING="1")
    assert said == "AUTOSCALER_GROUPS__WEB__WARM__RUNNING: groups.web.warm is 'auto' in the file, not a table"


def test_values_that_clash_name_the_variables_that_take_part(path: Path) -> None:
    said = refusal(path, GROUPS__WEB__MIN="5")
    assert said == f"{path}:4: groups.web: min must be <= max (4); got 5 (with AUTOSCALER_GROUPS__WEB__MIN set)"


def test_other_variables_of_ours_are_left_alone(path: Path) -> None:
    assert load(path, CONFIG="x.toml", TEST_IMAGE="/x") == load(path)


def test_the_digest_tells_what_the_environment_sets(path: Path) -> None:
    plain = config_file.load(path, {})[1]
    assert config_file.load(path, {"AUTOSCALER_CONFIG": "x"})[1] == plain
    two = [config_file.load(path, {"AUTOSCALER_GROUPS__WEB__MAX": value})[1] for value in ("5", "6")]
    assert len({plain, *two}) == 3


def test_a_group_that_is_called_like_a_policy_keeps_its_name_in_a_refusal(path: Path) -> None:
    path.write_text('[groups.step]\nprefix = "s-"\nmax = 0\n')
    assert refusal(path).startswith(f"{path}:3: groups.step.max: ")


# --- config check, config show ---------------------------------------------------------------------------------------


def test_show_says_of_each_key_where_it_comes_from(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOSCALER_GROUPS__WEB__MAX", "6")
    found = {setting.key: (setting.value, setting.origin) for setting in settings(path, "groups.web")}
    assert found["groups.web.max"] == (6, "AUTOSCALER_GROUPS__WEB__MAX")
    assert found["groups.web.prefix"] == ("web-", "autoscaler.toml:5")
    assert found["groups.web.min"] == (1, "default")
    assert found["groups.web.policies.0.high_ratio"] == (0.8, "autoscaler.toml:9")
    assert not any(key.startswith("groups.batch") for key in found)


def test_what_show_prints_is_toml_that_means_the_same(path: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.toml"
    lines = text([setting for setting in settings(path) if ".policies." not in setting.key])
    again.write_text(lines)
    assert config_file.load(again)[0].groups["batch-jobs"] == config_file.load(path)[0].groups["batch-jobs"]


def test_show_can_leave_out_defaults_and_refuses_a_key_that_is_none(path: Path) -> None:
    assert {setting.origin for setting in settings(path, is_default_shown=False)} == {
        f"autoscaler.toml:{line}" for line in (3, 5, 6, 8, 9, 11, 12, 13, 14, 15)
    }
    with pytest.raises(ConfigError, match=r"no key begins with 'groups\.wbe'"):
        settings(path, "groups.wbe")


def test_check_names_what_the_environment_sets(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "environment" not in check(path).text()
    monkeypatch.setenv("AUTOSCALER_GROUPS__WEB__MAX", "6")
    assert check(path).text().splitlines()[0].endswith("; set by the environment: AUTOSCALER_GROUPS__WEB__MAX")


def test_check_names_what_looks_like_ours_and_is_not_read(path: Path) -> None:
    checked = check(path, {"AUTOSCALER_CONFIG": "x", "AUTOSCALER_MAX": "2", "AUTOSCALER_GROUPS__WEB__MAX": "6"})
    assert (
        checked.text()
        .splitlines()[0]
        .endswith("set by the environment: AUTOSCALER_GROUPS__WEB__MAX; not read: AUTOSCALER_MAX")
    )
    assert checked.values().items() >= {"groups": ["web", "batch-jobs"], "unread": ["AUTOSCALER_MAX"]}.items()


def test_check_warns_of_template_domains_on_hosts_with_the_same_addresses(tmp_path: Path) -> None:
    hosts = '[hosts.a]\n[hosts.b]\n[groups.web]\nprefix = "web-"\nhosts = ["a", "b"]\n'
    template, existing = tmp_path / "template.toml", tmp_path / "existing.toml"
    template.write_text(hosts, encoding="utf-8")
    existing.write_text(f'{hosts}kind = "existing"\n', encoding="utf-8")
    assert "may run on a, b" in check(template).text() and "(192.168.150.0/24)" in check(template).text()
    assert "may run on" not in check(existing).text()


def changed(path: Path, group: str) -> str:
    """Return what check says of defaults of this group that are others than in 0.1.0, empty if nothing."""
    return next((note for note in check(path).notes if note.startswith(f"groups.{group}: other defaults")), "")


def test_check_says_of_existing_groups_that_they_keep_their_power(path: Path) -> None:
    said = changed(path, "batch-jobs")
    assert said.startswith("groups.batch-jobs: other defaults for existing groups than in 0.1.0: start_timeout_s")
    assert 'power_off = "never" (was "after-stop-timeout")' in said and said.endswith("is asked again and again")
    path.write_text(path.read_text().replace('kind = "existing"', 'kind = "existing"\npower_off = "never"', 1))
    said = changed(path, "batch-jobs")
    assert "power_off" not in said and "stop_timeout_s = 120.0 (was 10.0)" in said


def test_check_says_which_defaults_of_a_disk_image_are_new_and_only_the_slots_of_a_kernels_guest(
    tmp_path: Path,
) -> None:
    path = tmp_path / "f.toml"
    path.write_text('[groups.web]\nprefix = "web-"\n')
    assert changed(path, "web").endswith("than in 0.1.0: max_in_flight = 16 (was 64)")
    path.write_text('[groups.web]\nprefix = "web-"\nmax_in_flight = 64\n')
    assert changed(path, "web") == ""
    path.write_text('[groups.web]\nprefix = "web-"\nstop_timeout_s = 90.0\n[groups.web.image]\ndisk = "/d"\n')
    said = changed(path, "web")
    assert "stop_timeout_s" not in said and "image.memory_mib = 1024 (was 128)" in said and "power_off" not in said


def test_check_warns_of_a_timeout_that_cuts_an_operating_system_while_it_shuts_down(tmp_path: Path) -> None:
    path = tmp_path / "f.toml"
    path.write_text('[groups.web]\nprefix = "web-"\nstop_timeout_s = 10.0\n[groups.web.image]\ndisk = "/d"\n')
    assert any("stop_timeout_s = 10.0: an operating system may need longer" in note for note in check(path).notes)
    path.write_text(path.read_text().replace("10.0", '10.0\npower_off = "never"'))
    assert not any("may need longer" in note for note in check(path).notes)


def test_what_is_in_force_by_default_says_for_whom_it_is_one(tmp_path: Path) -> None:
    path = tmp_path / "f.toml"
    path.write_text('[groups.web]\nprefix = "web-"\nwarm_up_s = 5.0\n[groups.web.image]\ndisk = "/d"\n')
    found = {setting.key: setting for setting in settings(path, "groups.web")}
    stop, start = found["groups.web.stop_timeout_s"], found["groups.web.surge"]
    assert stop.values() == {
        "key": "groups.web.stop_timeout_s", "value": 120.0, "from": "default", "default_for": "disk images"
    }  # fmt: skip
    assert (start.comment, found["groups.web.warm_up_s"].comment) == ("default", "f.toml:3")
    assert "groups.web.image.memory_mib = 1024" in text(list(found.values()))
    assert not [s for s in settings(path, is_default_shown=False) if s.origin == "default"]
