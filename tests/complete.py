"""``pytest --complete``: what skips itself has failed, so a run that says that all is well has run everything.

Only what could not be downloaded stays a skip: without a network there is none, and a machine lacks nothing for it.
"""

from collections.abc import Iterator

import pytest

MAY_SKIP = "could not download"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take ``--complete``."""
    parser.addoption("--complete", action="store_true", help="a test that skips itself for what is missing has failed")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Turn the report of a skip into that of a failure."""
    outcome = yield
    report: pytest.TestReport = outcome.get_result()  # type: ignore[attr-defined] # what a wrapper is sent
    if not item.config.getoption("complete") or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if MAY_SKIP not in reason:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was to run, see --complete; {reason}"
