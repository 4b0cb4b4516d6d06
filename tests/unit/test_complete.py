"""A run that was to be complete fails where a test skips itself."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = """
import os
import pytest

@pytest.fixture
def images():
    pytest.skip("real guests need root: libvirt's system socket, networks")

@pytest.mark.skipif(True, reason="needs root")
def test_marked(): pass
def test_by_its_fixture(images): pass
def test_inside(): pytest.skip("libvirtd is missing")
def test_that_runs(): pass
@pytest.mark.xfail(reason="known")
def test_known(): assert False
"""
NO_NETWORK = 'import pytest\ndef test_net(): pytest.skip("could not download https://example.org: no route")\n'


def said(tmp_path: Path, text: str, *words: str) -> tuple[int, str]:
    path = tmp_path / "unit" / "test_it.py"
    path.parent.mkdir()
    path.write_text(text)
    command = [sys.executable, "-m", "pytest", "-p", "tests.complete", "-p", "no:cacheprovider", *words, str(path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_what_skips_itself_has_failed_where_the_run_was_to_be_complete(tmp_path: Path) -> None:
    code, out = said(tmp_path, TESTS, "--complete")
    assert code == 1
    assert "1 passed, 1 xfailed" in out and "skipped" not in out.splitlines()[-1]
    for reason in ("needs root", "real guests need root", "libvirtd is missing"):
        assert f"was to run, see --complete; Skipped: {reason}" in out


def test_what_skips_itself_is_passed_over_otherwise(tmp_path: Path) -> None:
    code, out = said(tmp_path, TESTS)
    assert (code, "1 passed, 3 skipped, 1 xfailed" in out) == (0, True), out


@pytest.mark.parametrize("words", [(), ("--complete",)])
def test_what_could_not_be_downloaded_is_passed_over(tmp_path: Path, words: tuple[str, ...]) -> None:
    code, out = said(tmp_path, NO_NETWORK, *words)
    assert (code, "1 skipped" in out) == (0, True), out


def test_make_runs_the_tests_with_real_parts_completely() -> None:
    text = (ROOT / "Makefile").read_text()
    words = next(line for line in text.splitlines() if line.startswith("REAL_TESTS := ")).partition(" := ")[2]
    assert words.startswith("scripts/with-root.sh $(BIN)/pytest ") and words.endswith(" --complete")
    assert text.count("\t@$(REAL_TESTS) ") == 6
    assert re.findall(r"pytest .*tests/(?:integration|e2e|chaos)\b", text) == []
