"""kill -9 of the actuator at each of its effects on a domain that it boots and takes away, with real guests."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.config import Config
from common.domain import DomainFacts, DomainState
from common.hypervisor import Connection
from tests.faults.proof import Proof
from tests.integration.test_clones import URI, get, has_libvirt
from tests.named import Named
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
GROUP, DOMAIN = "asfk", "asfk-0000"
PATIENCE_S = 120.0
LIVES = 20  # without kills there are 7 effects until a domain serves, and 5 until it is gone

pytestmark = pytest.mark.skipif(not has_libvirt(), reason="needs libvirtd")


@pytest.fixture
def config(images: Path) -> Iterator[Config]:
    place = Path(tempfile.mkdtemp(prefix="asfk-", dir="/var/tmp"))
    place.chmod(0o755)
    config = Config.model_validate(
        {
            "system": {"run_dir": f"{place}/run", "state_dir": f"{place}/state", "interval_s": 0.5},
            "network": {"name": GROUP, "bridge": "asbr9f", "subnet": "192.168.224.0/24", "slots": 10},
            "groups": {
                GROUP: {
                    "prefix": f"{GROUP}-",
                    "min": 0,
                    "max": 2,
                    "endpoint": "127.0.0.1:18064",
                    "image": {"directory": str(images), "memory_mib": 96, "cpu_quota": 0.9},
                }
            },
        }
    )
    (place / "config.json").write_text(config.model_dump_json(by_alias=True))
    yield config
    shutil.rmtree(place)


@pytest.fixture
def connection() -> Iterator[Connection]:
    connection = Named.open(URI, is_read_only=False, may_touch=lambda name: name.startswith(f"{GROUP}-"))
    yield connection
    for domain in ours(connection):
        if domain.state != DomainState.SHUTOFF:
            connection.destroy(domain.name)
        connection.undefine(domain.name)
    connection.remove_network(GROUP)
    connection.close()


def ours(connection: Connection) -> list[DomainFacts]:
    return [domain for domain in connection.domains() if domain.name.startswith(f"{GROUP}-")]


def lives(config: Config, connection: Connection, desired: int) -> Iterator[list[str]]:
    """Bring the group to ``desired`` domains by as many processes as it takes, each killed after its first effect.

    A step of two effects is taken again from its first; so where one effect left all as it was, the next process is
    killed after its second.

    Yields:
        The effects of each process, once it has ended; the last one is not killed, and may have had none.
    """
    before, last = None, 1
    for _ in range(LIVES):
        said, code = actuator(config, desired, last)
        if code == 0:
            yield said[:-1]
            return
        assert (len(said), code) == (last, -signal.SIGKILL), said
        yield said
        found = [(domain.uuid, domain.state, domain.metadata) for domain in ours(connection)]
        before, last = found, last + 1 if found == before else 1
    raise AssertionError(f"not at {desired} domain(s) after {LIVES} processes")


def actuator(config: Config, desired: int, last: int) -> tuple[list[str], int]:
    """Run a process that is killed after so many effects on the domain, if it has as many.

    Returns:
        What it said, and how it ended.
    """
    path = config.system.state_path.parent / "config.json"
    words = [str(path), "0", str(desired), DOMAIN, "resumed", str(last)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.mortal_actuator", *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return done.stdout.splitlines(), done.returncode


def serving(address: str) -> str:
    try:
        return get(address, "/healthz")[1]
    except OSError:
        return ""  # a busy machine


@pytest.mark.slow
@pytest.mark.fault(3, 4)
def test_killed_after_each_of_its_effects_there_is_one_domain_that_serves_and_in_the_end_none(
    config: Config, connection: Connection, row: Proof
) -> None:
    grown, uuids = [], set()
    for effects in lives(config, connection, 1):
        grown += [effects]
        (domain,) = ours(connection)
        uuids.add(domain.uuid)
        assert (domain.name, domain.state) == (DOMAIN, DomainState.SHUTOFF if grown == [["define"]] else "running")
    assert (grown[0], grown[1], grown[-1], len(uuids)) == (["define"], ["start"], [], 1)
    row.held("killed after the definition and before the start: the next one starts what it finds")
    wait_until(lambda: serving(config.network.address(0)) == DOMAIN, "it serves at the first address", 20)
    row.held(f"killed after each of {len(grown) - 1} effects of a scale-out: one domain serves, and there was no other")
    shrunk = [effect for effects in lives(config, connection, 0) for effect in effects]
    assert ours(connection) == []
    assert (shrunk.count("shutdown"), shrunk.count("destroy"), shrunk.count("undefine")) == (1, 0, 1)
    row.held(f"after each of {len(shrunk)} effects of a scale-in: it was shut down in peace, and nothing is left")
