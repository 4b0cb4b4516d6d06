"""``make faults``: the tests that prove a row of the matrix, and the page that says what they measured.

A test says ``@pytest.mark.fault(12)`` and takes ``row``, to which it tells what it measured and what it saw hold. Such
tests stand beside others of their kind; those in this directory are too dear for every ``make test``.
"""

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.page import page, with_rows
from tests.faults.proof import BRIEF_S, SHORT_S, Proof

PROOFS = pytest.StashKey[list[Proof]]()
PROOF = pytest.StashKey[Proof]()
BEGAN_S = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the rows and the page."""
    group = parser.getgroup("faults")
    group.addoption("--faults", action="store_true", help="only the tests that prove a row of the fault matrix")
    group.addoption("--row", type=int, action="append", default=[], help="only this row of the fault matrix")
    group.addoption("--long", action="store_true", help="faults last as long as the matrix says, not 60 s at most")
    group.addoption("--page", type=Path, help="where to write what the rows showed")


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "fault(row, …): proves these rows of the fault matrix")
    config.stash[PROOFS] = []
    config.stash[BEGAN_S] = time.monotonic()  # noqa: TID251


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose the tests of the rows that are asked for."""
    wanted, is_asked = set(config.getoption("row")), config.getoption("faults") or config.getoption("row")
    longest_s = math.inf if config.getoption("long") else SHORT_S if is_asked else BRIEF_S
    for item in items:
        rows = tuple(row for marker in item.iter_markers("fault") for row in marker.args)
        if rows:
            item.stash[PROOF] = Proof(rows, longest_s=longest_s)
    if is_asked:
        chosen = [
            item for item in items if PROOF in item.stash and (not wanted or wanted & set(item.stash[PROOF].rows))
        ]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen
        config.stash[PROOFS] += [item.stash[PROOF] for item in chosen]


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Proof:
    """Return what the test tells its findings to."""
    return request.node.stash[PROOF]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Note whether the test of a row passed."""
    outcome = yield
    proof = item.stash.get(PROOF, None)
    if proof is None:
        return
    report: pytest.TestReport = outcome.get_result()  # type: ignore[attr-defined] # what a wrapper is sent
    if report.when == "call" and report.passed:
        proof.fault = None
    elif not report.passed:
        proof.fault = _first_line(report)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Write the page, and say what it says."""
    path = config.getoption("page")
    if path is None:
        return
    proofs: defaultdict[int, list[Proof]] = defaultdict(list)
    for proof in config.stash[PROOFS]:
        for number in proof.rows:
            proofs[number].append(proof)
    wanted = config.getoption("row")
    if wanted:
        asked = {number: proofs[number] for number in wanted}
        text = with_rows(path.read_text(encoding="utf-8"), asked)
    else:
        text = page(proofs, took_s=time.monotonic() - config.stash[BEGAN_S])  # noqa: TID251
    path.write_text(text, encoding="utf-8")
    terminalreporter.write_line(text.splitlines()[2])


def _first_line(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return (str(crash.message) if crash else str(report.longrepr)).splitlines()[0]
