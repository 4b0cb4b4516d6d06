"""Whose is a domain under a name of ours? Looked at on libvirt's test driver, which keeps what this process defines."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cli.doctor.facts import StrayFacts
from cli.doctor.gather_libvirt import view
from cli.doctor.gather_strays import COPIES, stray_files
from cli.doctor.judge_guests import judge_strays
from common.config import Config
from common.hypervisor import Connection
from common.phases import Phase
from services.actuator.core.record import Record

URI = "test:///default"
XML = "<domain type='test'><name>{0}</name><uuid>{1}</uuid><memory>1024</memory><os><type>hvm</type></os></domain>"
UUIDS = {
    name: f"5b1f2f10-1111-4222-8333-1234567891{number:02d}"
    for number, name in enumerate(["plain", "copied", "taken-in", "unreadable", "made", "elsewhere"])
}
NAMES = {"elsewhere": "dsother-0000"} | {name: f"dstray-{at:04d}" for at, name in enumerate(list(UUIDS)[:-1])}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    system = {"run_dir": f"{tmp_path}/run", "state_dir": f"{tmp_path}/state"}
    return Config.model_validate(
        {"system": system, "hosts": {"local": {"uri": URI}}, "groups": {"web": {"prefix": "dstray-"}}}
    )


@pytest.fixture
def domains() -> Iterator[dict[str, str]]:
    """Define one domain of each kind; give their names."""
    connection = Connection.open(URI, is_read_only=False, may_touch=lambda name: name.startswith("ds"))
    made = Record(
        group="old", uuid="", host="local", phase=Phase.READY, since_mono_s=0, since_s=0, boot_id="", template="digest"
    )
    records = {
        kind: replace(made, uuid=UUIDS[kind]).to_metadata() for kind in ("made", "elsewhere", "unreadable", "taken-in")
    }
    records["copied"] = replace(made, uuid=UUIDS["made"]).to_metadata()
    records["taken-in"]["template"] = ""
    records["unreadable"]["phase"] = "no phase"
    try:
        for kind, name in NAMES.items():
            connection.define(XML.format(name, UUIDS[kind]))
            if kind in records:
                connection.set_metadata(name, UUIDS[kind], records[kind])
        yield NAMES
    finally:
        for kind, name in NAMES.items():
            connection.undefine(name, UUIDS[kind])
        connection.close()


def test_only_what_this_program_made_is_to_be_removed_and_everything_else_is_somebody_elses(
    config: Config, domains: dict[str, str]
) -> None:
    seen = view(config, "local")
    assert seen.stale == {domains["made"]: "old"}
    assert seen.foreign == tuple(sorted(domains[kind] for kind in ("plain", "copied", "taken-in", "unreadable")))
    assert domains["elsewhere"] in seen.others and not seen.owned
    found = judge_strays(StrayFacts({}, seen.stale, seen.foreign, seen.others, (), ()), "local")
    removing = [one for one in found if "destroy" in one.mend or "undefine" in one.mend]
    assert [one.check for one in removing] == ["stale-domains"]
    assert domains["made"] in removing[0].what and not any(name in removing[0].what for name in seen.foreign)


def test_the_kernel_of_a_domain_of_no_group_of_this_file_is_no_stray_file(
    config: Config, domains: dict[str, str]
) -> None:
    copies = config.system.state_path / COPIES
    for age_s, name in enumerate(("newest", "digest", "unused")):
        (copies / name).mkdir(parents=True)
        os.utime(copies / name, (1e9 - age_s, 1e9 - age_s))
    assert stray_files(config, view(config, "local")) == (str(copies / "unused"),)
