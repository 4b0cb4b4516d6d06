"""The one rule for names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import names

HOSTILE = [
    "a;b",
    "</name>",
    "a b",
    "a\nb",
    "../x",
    "",
    "-a",
    "0a",
    "a/b",
    "ä",
    "a\x00",
    "a" * 60,
    "web-\n",
    "$(x)",
    "a'b",
]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("rule", [names.GROUP_NAME, names.PREFIX, names.DOMAIN_NAME])
def test_hostile_names_never_pass(rule: "names.re.Pattern[str]", name: str) -> None:
    assert rule.fullmatch(name) is None


@pytest.mark.parametrize("prefix", ["web-", "AnyPrefix-", "a", "My_vm.x-"])
def test_plain_prefixes_pass_and_make_domain_names_that_pass(prefix: str) -> None:
    assert names.PREFIX.fullmatch(prefix)
    assert names.DOMAIN_NAME.fullmatch(names.domain_name(prefix, 9999))


def test_the_longest_prefix_still_makes_a_domain_name() -> None:
    prefix = "a" * 41
    assert names.PREFIX.fullmatch(prefix)
    assert names.DOMAIN_NAME.fullmatch(names.domain_name(prefix, 0))


@given(st.from_regex(names.PREFIX, fullmatch=True), st.integers(0, 9999))
def test_an_index_comes_out_of_a_name_as_it_went_in(prefix: str, index: int) -> None:
    assert names.domain_index(prefix, names.domain_name(prefix, index)) == index


@pytest.mark.parametrize("name", ["web-", "web-3", "web-00003", "web-0003x", "web-٠٠٠٣", "web-+003", "db-0003"])
def test_a_name_of_another_shape_does_not_belong(name: str) -> None:
    assert names.domain_index("web-", name) is None


@pytest.mark.parametrize("index", [-1, 10_000])
def test_an_index_beyond_four_digits_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match=rf"index must be in 0\.\.9999; got {index}"):
        names.domain_name("web-", index)
