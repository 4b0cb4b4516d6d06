"""The steps of the actuator against libvirt's own test driver: define and start as libvirt sees them."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from common.config import Group, Image, Network
from common.domain import DomainState
from common.hypervisor import Connection
from common.phases import Phase
from services.actuator.core.domain_xml import DomainSpec, domain_xml
from services.actuator.core.record import Record, parse
from services.actuator.core.seen import Template
from services.actuator.core.steps import Define, Destroy, SetPhase, Start, Step, Undefine
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
