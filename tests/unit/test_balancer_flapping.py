"""Members that go down again and again: kept out for longer, as long as the others are sound."""

from dataclasses import replace

import pytest

from services.balancer.core.answers import Admin
from services.balancer.core.flapping import CALM_S, WINDOW_S, Course, follow, restless_s
from tests.unit.test_balancer_backends import server

UP, DOWN = server(1, Admin.READY), server(1, Admin.READY, status="DOWN")
OTHERS = {"u2": server(2, Admin.READY), "u3": server(3, Admin.READY)}
LOOK_S = 0.25


class Story:
    """One member among others, looked at again and again."""

    def __init__(self, **others: object) -> None:
        self.now_s = 0.0
        self.others = dict(OTHERS)
        self.courses: dict[str, Course] = {}

    def shows(self, status: str, for_s: float = LOOK_S, check: str = "L7OK") -> bool:
        """Return whether the member is kept out once it has shown this for so long."""
        until_s = self.now_s + for_s
        while self.now_s < until_s:
            self.now_s += LOOK_S
            servers = {"u1": server(1, Admin.READY, status=status, check=check), **self.others}
            self.courses = follow(self.courses, servers, self.now_s)
        return "u1" in restless_s(self.courses, ["u1", "u2", "u3"], self.now_s)


@pytest.fixture
def story() -> Story:
    """A member that has gone down once and come back."""
    story = Story()
    assert not story.shows("UP")
    assert not story.shows("DOWN")
    assert not story.shows("UP", 5.0)
    return story


def test_who_goes_down_twice_within_a_minute_stays_out_until_all_is_well_for_long(story: Story) -> None:
    assert story.shows("DOWN")
    assert story.shows("DRAIN", CALM_S - 5.0)
    assert story.shows("DRAIN 2/3")
    assert story.shows("DRAIN", CALM_S - 1.0)
    assert restless_s(story.courses, ["u1"], story.now_s)["u1"] == pytest.approx(2 * CALM_S - 6.0 + LOOK_S)
    assert not story.shows("DRAIN", 1.0)
    assert not story.shows("UP", 1.0)
    assert not story.shows("DOWN"), "it begins anew"


def test_who_goes_down_once_a_minute_is_left_to_its_checks(story: Story) -> None:
    story.shows("UP", WINDOW_S)
    assert not story.shows("DOWN", 10.0)


def test_one_that_stays_down_is_down_once(story: Story) -> None:
    story.shows("UP", WINDOW_S)
    for _ in range(3):
        assert not story.shows("DOWN", 5.0)
        assert not story.shows("DOWN 1/2")


def test_one_that_we_take_out_or_keep_up_after_it_went_down_is_down_once(story: Story) -> None:
    story.shows("UP", WINDOW_S)
    assert not story.shows("DOWN", 2.0, "L4TOUT")
    for _ in range(3):
        assert not story.shows("NOLB", 1.0, "L4TOUT"), "avoided: its QEMU was found frozen"
        assert not story.shows("DOWN", 1.0, "L4TOUT")
        assert not story.shows("UP", 1.0, "L4TOUT"), "kept up: nobody else served"
        assert not story.shows("UP 1/3", 1.0, "L4TOUT")
        assert not story.shows("DOWN", 1.0, "L4TOUT")
    assert not story.shows("UP", 5.0)
    assert story.shows("DOWN"), "from its own check that succeeded on, it counts"


def test_nobody_is_kept_out_while_nobody_else_is_sound(story: Story) -> None:
    assert story.shows("DOWN")
    story.others = {key: replace(found, status="UP 2/3") for key, found in OTHERS.items()}
    assert not story.shows("DRAIN")
    story.others = dict(OTHERS)
    assert not story.shows("DRAIN", 5.0), "what went before is forgotten"


def test_where_several_go_down_again_and_again_nobody_is_kept_out(story: Story) -> None:
    story.others["u2"] = server(2, Admin.READY, status="DOWN")
    story.shows("UP")
    story.others["u2"] = server(2, Admin.READY)
    story.shows("UP")
    story.others["u2"] = server(2, Admin.READY, status="DOWN")
    assert not story.shows("DOWN")


def test_a_member_alone_is_never_kept_out(story: Story) -> None:
    story.others = {}
    assert not story.shows("DOWN")
