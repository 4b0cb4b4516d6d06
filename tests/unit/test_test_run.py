"""Which runs of the tests may start libvirt and build an image, and which may not."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT, is_fast_only


def test_make_test_fast_starts_nothing() -> None:
    line = re.search(r"^FAST_TESTS := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert line is not None
    asked = [str(ROOT / word) for word in line[1].split() if not word.startswith("-")]
    assert len(asked) > 3
    assert is_fast_only(asked)


@pytest.mark.parametrize("asked", [".", "tests", "tests/e2e", "tests/integration/test_process.py::test_x"])
def test_a_run_that_may_hold_real_guests_starts_what_they_need(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert not is_fast_only(["tests/unit", asked])
    assert not is_fast_only([str(Path(ROOT / asked))])
