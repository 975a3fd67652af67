"""pytest plugin: where a display is promised, a test marked ``gui`` that skips has failed."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip of a ``gui`` test into a failure that says why it skipped."""
    report = yield
    expected: Any = getattr(report, "wasxfail", None)
    if report.skipped and expected is None and item.get_closest_marker("gui"):
        report.outcome = "failed"
        report.longrepr = f"a gui test must not be skipped here: {report.longrepr}"
    return report
