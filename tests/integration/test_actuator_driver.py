"""The steps of the actuator against libvirt's own test driver: define and start as libvirt sees them."""

from collections.abc import Iterator
from dataclasses import replace
from uuid import uuid4

import pytest

from common.config import Group, Image, Network
from common.domain import DomainFacts, DomainState
from common.hypervisor import Connection
from common.phases import Phase
from services.actuator.core.domain_xml import DomainSpec, domain_xml
from services.actuator.core.record import Record, parse
from services.actuator.core.seen import Template
from services.actuator.core.steps import (
    Define,
    Destroy,
    Save,
    SetPhase,
    SetQuota,
    Shutdown,
    Start,
    Step,
    Suspend,
    Undefine,
)
from services.actuator.perform import Result, attempt

UUID = "6f7a2f2e-3f0e-5a6f-9d2c-0a3f6a0b1c2d"
GROUP = Group.model_validate({"prefix": "actest-", "image": Image(cpu_quota=0.4)})
RECORD = Record(
    group="actest", uuid=UUID, host="local", phase=Phase.CREATING, since_mono_s=1.0, since_s=1.0, boot_id="b", slot=0,
    template="d1", cause="<&'\"> d1",
)  # fmt: skip
ABOUT = {"group": "actest", "host": "local", "domain": "actest-0000", "uuid": UUID, "reason": ""}
XML = domain_xml(
    DomainSpec("actest-0000", UUID, RECORD, "test", GROUP, Network(), Template("/k", "/i", "d1", console_dir="/c"))
)


@pytest.fixture
def host() -> Iterator[Connection]:
    connection = Connection.open(
        "test:///default", is_read_only=False, may_touch=lambda name: name.startswith("actest-")
    )
    yield connection
    for step in (Destroy(**ABOUT), Undefine(**ABOUT)):
        attempt(connection, step, None)
    connection.close()


def done(host: Connection, step: Step, xml: str | None = None) -> None:
    assert attempt(host, step, xml) == (Result.DONE, "")


def test_life_of_a_domain_in_libvirts_own_terms(host: Connection) -> None:
    done(host, Define(**ABOUT, record=RECORD, accel="test"), XML)
    facts = host.facts("actest-0000")
    assert facts is not None
    assert (facts.uuid, facts.state, parse(facts.metadata)) == (UUID, DomainState.SHUTOFF, RECORD)
    assert attempt(host, Define(**ABOUT, record=RECORD, accel="test"), XML)[0] is Result.FAILED
    done(host, Start(**ABOUT))
    booting = replace(RECORD, phase=Phase.BOOTING)
    done(host, SetPhase(**ABOUT, record=booting, was=Phase.CREATING))
    facts = host.facts("actest-0000")
    assert facts is not None and (facts.state, parse(facts.metadata)) == (DomainState.RUNNING, booting)
    done(host, Destroy(**ABOUT))
    done(host, Undefine(**ABOUT))
    assert host.facts("actest-0000") is None
    done(host, Undefine(**ABOUT))


def test_foreign_domain_of_the_host_is_not_shown_nor_touched(host: Connection) -> None:
    assert host.facts("test") is None
    foreign = ABOUT | {"domain": "test", "uuid": "6695eb01-f6a4-8304-79aa-97f2502e193f"}
    attempt(host, Destroy(**foreign), None)
    assert host.domains() == []
    everyone = Connection.open("test:///default", is_read_only=True, may_touch=lambda _name: True)
    assert [d.state for d in everyone.domains() if d.name == "test"] == [DomainState.RUNNING]
    everyone.close()


class Swapping(Connection):
    """A host where, between the look and the call, somebody takes our domain away and puts his own under its name."""

    theirs = ""

    def facts(self, name: str) -> DomainFacts | None:
        found = super().facts(name)
        if found is not None and found.uuid == UUID:
            with self._lines.use() as line:
                ours = line.raw.lookupByUUIDString(UUID)
                if ours.isActive():
                    ours.destroy()
                ours.undefine()
                self.theirs = line.raw.defineXML(XML.replace(UUID, str(uuid4()))).UUIDString()
                line.raw.lookupByUUIDString(self.theirs).create()
        return found


@pytest.mark.parametrize("kind", [Start, Shutdown, Destroy, Undefine, Suspend, Save, SetQuota, SetPhase])
def test_who_takes_the_name_between_the_look_and_the_call_is_not_touched(kind: type[Step]) -> None:
    host = Swapping.open("test:///default", is_read_only=False, may_touch=lambda name: name.startswith("actest-"))
    assert isinstance(host, Swapping)
    try:
        host.define(XML)
        if kind not in (Start, Undefine):
            host.start("actest-0000", UUID)
        more = {"record": replace(RECORD, cause="changed")} if kind in (Shutdown, SetQuota, SetPhase) else {}
        more |= {"otherwise": RECORD} if kind is Save else {}
        more |= {"cpu_quota": 0.1, "is_raised": True} if kind is SetQuota else {}
        more |= {"was": Phase.CREATING} if kind is SetPhase else {}
        result, _why = attempt(host, kind(**ABOUT, **more), None)
        (theirs,) = host.domains()
        assert (theirs.uuid, theirs.state) == (host.theirs, DomainState.RUNNING)
        assert theirs.metadata == replace(RECORD, uuid=host.theirs).to_metadata()
        assert result is (Result.DONE if kind in (Shutdown, Destroy, Undefine) else Result.FAILED)
    finally:
        for facts in host.domains():
            host.destroy(facts.name, facts.uuid)
            host.undefine(facts.name, facts.uuid)
        host.close()
