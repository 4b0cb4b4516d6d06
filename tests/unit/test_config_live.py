"""What a running system takes over from a changed file, and what it refuses."""

from pathlib import Path

import pytest

from common import config_file
from common.config import Config
from common.config_live import LIVE_GROUP, LIVE_SYSTEM, changes, refusal
from common.config_schema import fields
from common.reloading import outcome

FILE = '[groups.web]\nprefix = "web-"\n[[groups.web.policies]]\ntype = "threshold"\n'


def parse(text: str) -> Config:
    return config_file.parse(text.encode(), "f.toml")


def texts(old: str, new: str) -> list[str]:
    return [change.text for change in changes(parse(old), parse(new))]


def test_only_what_differs_in_meaning_is_a_change() -> None:
    assert texts(FILE, FILE.replace("[[", "min = 1\nmax = 4 # as before\n[[")) == []
    assert texts(FILE, FILE.replace("[[", "max = 6\nmin = 2\n[[")) == ["groups.web.min 1 → 2", "groups.web.max 4 → 6"]
    assert texts(FILE, FILE.replace("[[", "warm_up_s = 30.0\n[[")) == ["groups.web.warm_up_s 0.0 → 30.0"]
    assert texts(FILE, FILE + "high_ratio = 0.9\n") == ["groups.web.policies changed"]
    assert texts(FILE, FILE + '[system]\nlog_level = "debug"\n') == ["system.log_level info → debug"]


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ('[system]\nrun_dir = "/run/x"\n', "system.run_dir /run/libvirt-autoscaler → /run/x; restart the services"),
        ("[system]\ninterval_s = 2\n", "system.interval_s 1.0 → 2.0"),
        ("[haproxy]\nslots = 8\n", "haproxy.slots 64 → 8"),
        ('[groups.new]\nprefix = "n-"\nendpoint = "127.0.0.1:1"\n', "groups.new is new"),
        ("[groups.web.readiness]\ntimeout_s = 2.0\n", "groups.web.readiness changed"),
        ('[hosts.local]\n[hosts.far]\nuri = "qemu+tls://far/system"\n', "hosts.far is new"),
        ('[bus]\nkeys_dir = "/k"\n', "bus.keys_dir"),
    ],
)
def test_what_cannot_change_live_is_refused_and_named(added: str, said: str) -> None:
    assert said in refusal(changes(parse(FILE), parse(FILE + added)))


def test_a_group_that_is_gone_or_called_otherwise_is_refused() -> None:
    said = refusal(changes(parse(FILE), parse(FILE.replace("web", "shop"))))
    assert "groups.web is gone" in said
    assert "groups.shop is new" in said


def test_a_reload_says_how_a_group_is_renamed(tmp_path: Path) -> None:
    path = tmp_path / "f.toml"
    path.write_text(FILE.replace("groups.web", "groups.shop"))
    found = outcome(parse(FILE), path)
    assert found.config is None
    assert found.reply.reason == (
        "groups.shop has the prefix web- of groups.web: a group is not renamed while it has domains, for they carry "
        "its name; keep the name web, or take another prefix, or first: make down with the old file; "
        "the configuration in force stays"
    )


def test_a_refusal_names_only_what_cannot_change() -> None:
    new = FILE.replace("[[", 'max = 6\nprefix = "app-"\n[[').replace('prefix = "web-"\n', "", 1)
    said = refusal(changes(parse(FILE), parse(new)))
    assert "groups.web.prefix web- → app-" in said
    assert "max" not in said.partition(";")[0]


def test_every_live_key_exists() -> None:
    assert set(fields(type(parse(FILE).groups["web"]))) >= LIVE_GROUP
    assert set(fields(type(parse(FILE).system))) >= LIVE_SYSTEM


@pytest.mark.parametrize(
    "text",
    ["[groups.web]\nprefix = ", FILE + "mni = 1\n", FILE.replace("[[", "min = 5\nmax = 4\n[["), "", "[system]\n"],
)
def test_an_impossible_file_is_refused_with_its_fault_and_the_old_one_stays(tmp_path: Path, text: str) -> None:
    path = tmp_path / "f.toml"
    path.write_text(text)
    found = outcome(parse(FILE), path)
    assert (found.config, found.reply.status) == (None, "refused")
    assert found.reply.reason.startswith(f"{path}:")
    assert found.reply.reason.endswith("; the configuration in force stays")


def test_a_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in outcome(parse(FILE), tmp_path / "absent.toml").reply.reason


def test_what_is_taken_over_is_told_with_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "f.toml"
    path.write_text(FILE.replace("[[", "max = 6\n[["))
    found = outcome(parse(FILE), path)
    assert found.config is not None
    assert (found.config.groups["web"].maximum, found.reply.status) == (6, "applied")
    assert found.reply.reason == "groups.web.max 4 → 6"
    assert found.reply.data["digest"] == config_file.load(path)[1] == found.digest
    path.write_text(FILE + "# a comment\n")
    again = outcome(parse(FILE), path)
    assert (again.reply.reason, again.changes, again.config) == ("nothing changed", (), parse(FILE))
