"""How many tests of the steps passed on each GPU backend: a run in which few did is no success."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

BACKENDS = ("cuda", "triton")
NAMED = "by_{}"  # what a backend is called in the name of a test; pytest takes "cuda" for this folder
FEWEST = 2500  # of each: all tests of the steps but those on the features of a network, whose packages may be missing


def mark(request: pytest.FixtureRequest, backend: str) -> None:
    """A test that uses a backend says which; that travels in its report, also from a process of pytest-xdist."""
    request.node.user_properties.append(("backend", backend))


class Counting:
    """Counts what passed; fewer than `fewest` on any backend fail the run, whatever else went well."""

    def __init__(self, fewest: int = FEWEST) -> None:
        self.fewest = fewest
        self.passed: Counter[str] = Counter(dict.fromkeys(BACKENDS, 0))

    def lines(self) -> list[str]:
        return [
            f"{name}: {count} tests of the steps passed" + (f", needed {self.fewest}" if count < self.fewest else "")
            for name, count in self.passed.items()
        ]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.passed.update(str(value) for name, value in report.user_properties if name == "backend")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if session.exitstatus == pytest.ExitCode.OK and min(self.passed.values()) < self.fewest:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        terminalreporter.section("backends")
        for line in self.lines():
            terminalreporter.line(line)
