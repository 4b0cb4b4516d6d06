"""docs/states.md says what is: every state of libvirt's with its meaning, and every meaning."""

import re
from pathlib import Path

from common.domain_states import CHECKS_FAIL, MEANINGS, RESUMED_AFTER_S, Meaning, Row
from services.actuator.core.past import STEADY_S

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "states.md").read_text(encoding="utf-8")


def told_again(row: Row) -> str:
    if row.limit_s is None:
        return "–"  # noqa: RUF001 - as in the table
    return f"after {row.limit_s / 60:g} min" if row.limit_s else "at once"


def test_every_state_is_listed_with_its_meaning_and_its_words() -> None:
    rows = re.findall(r"^\| ([a-z]+) \| ([a-z-]+) \| ([a-z-]+) \| ([^|]+) \| ([^|]+) \|$", TEXT, re.MULTILINE)
    assert rows == [
        (state.value, reason, row.meaning.value, row.text, told_again(row)) for (state, reason), row in MEANINGS.items()
    ]


def test_every_meaning_is_explained() -> None:
    assert set(re.findall(r"^\| `([a-z-]+)` \| [^|]+ \| [^|]+ \|$", TEXT, re.MULTILINE)) == {m.value for m in Meaning}


def test_times_are_those_of_the_code() -> None:
    tries = ", ".join(f"{each:g}" for each in RESUMED_AFTER_S)
    assert f"after {tries}, {RESUMED_AFTER_S[-1]:g} … s" in TEXT
    assert f"it has {CHECKS_FAIL.limit_s:g} s to recover" in TEXT and f"have run for {STEADY_S:g} s" in TEXT.replace(
        "\n", " "
    )


def test_it_is_linked_from_where_people_look() -> None:
    for name in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md"):
        assert "docs/states.md" in (ROOT / name).read_text(encoding="utf-8"), name
