"""A changed file that would silence who serves now is refused before anything is changed."""

from collections.abc import Callable

import pytest

from cli.kept_in_service import TRIES, silenced
from cli.observe import Snapshot
from common.config import Config, Group
from common.http_answer import HttpAnswer
from common.messages import BackendState, Drain, Member, Membership, Unready
from common.phases import Phase
from services.actuator.core.seen import Probe
from services.actuator.prober import Target, judge

RIGHT = Probe(True)
SLOW = Probe(False, why=Unready(kind="timeout"))


def config(**readiness: object) -> Config:
    return Config(groups={"web": Group.model_validate({"prefix": "web-", "readiness": readiness})})


def serves(*names: str, sick: tuple[str, ...] = (), booting: tuple[str, ...] = ()) -> Snapshot:
    """Return a group of which the first ones serve, some are down, and some are on their way."""
    members = [
        Member(
            name=name, uuid=name, host="local", phase=Phase.BOOTING if name in booting else Phase.READY, since_s=0,
            age_s=1, address=f"10.0.0.{index}", port=8080,
        )
        for index, name in enumerate((*names, *sick, *booting))
    ]  # fmt: skip
    backends = [
        BackendState(name=m.name, uuid=m.uuid, slot="vm1", state="ready", is_healthy=m.name not in sick)
        for m in members
    ]
    group = Membership(
        group="web", generation_seen=1, desired_seen=1, members=tuple(members), owned_total=1, ceiling=5
    )  # fmt: skip
    drain = Drain(group="web", endpoint="x", is_proxy_alive=True, backends=tuple(backends))
    return Snapshot(memberships={"web": group}, drains={"web": drain})


def answering(answers: dict[str, Probe], asked: list[Target] | None = None) -> Callable[[Target], Probe]:
    def ask(target: Target) -> Probe:
        if asked is not None:
            asked.append(target)
        return answers.get(target.name) or judge(target, HttpAnswer(404, None, None, b""))

    return ask


def test_a_path_that_nobody_answers_is_refused_with_what_came() -> None:
    found = silenced(config(path="/nope"), serves("a", "b"), answering({}))
    assert found == {
        "web": "a 10.0.0.0:8080/nope answers 404; readiness wants 200, b 10.0.0.1:8080/nope answers 404; "
        "readiness wants 200"
    }


def test_who_passes_is_kept_and_one_definite_answer_is_enough_to_refuse() -> None:
    assert silenced(config(), serves("a", "b"), answering({"a": RIGHT, "b": RIGHT})) == {}
    assert silenced(config(), serves("a", "b"), answering({"a": RIGHT})).keys() == {"web"}


@pytest.mark.parametrize(("answers", "is_refused"), [({"a": SLOW, "b": RIGHT}, False), ({"a": SLOW, "b": SLOW}, True)])
def test_one_that_is_slow_may_be_busy_and_all_of_them_would_be_lost(
    answers: dict[str, Probe], is_refused: bool
) -> None:
    asked: list[Target] = []
    assert bool(silenced(config(), serves("a", "b"), answering(answers, asked))) is is_refused
    assert [target.name for target in asked].count("a") == TRIES


def test_only_those_that_serve_are_asked_what_haproxy_will_ask() -> None:
    asked: list[Target] = []
    see = serves("a", sick=("b",), booting=("c",))
    assert silenced(config(protocol="agent"), see, answering({"a": RIGHT}, asked)) == {}
    assert [(t.name, t.protocol, t.is_identity_checked) for t in asked] == [("a", "tcp", False)]


def test_who_is_not_heard_has_nobody_to_lose() -> None:
    assert silenced(config(), Snapshot(), answering({})) == {}
    see = serves("a")
    assert silenced(config(), Snapshot(memberships=see.memberships), answering({})) == {}
