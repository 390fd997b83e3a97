"""The rule on skipped tests: in CI a skip that is not on a committed list fails the run.

A skip is silent, so a test that stops running because something is missing would otherwise never be
noticed. Registered by tests/conftest.py with tests/expected-skips.txt. Each line of such a list is

    node id  --  beginning of the reason

where `*` in the node id stands for anything. Lines that begin with `#` are remarks.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Skip:
    """A test, or a module, that did not run, and why."""

    nodeid: str
    reason: str

    def __str__(self) -> str:
        return f"{self.nodeid}  --  {self.reason}"


@dataclass(frozen=True)
class ExpectedSkip:
    """A line of the list."""

    pattern: str
    reason: str

    def covers(self, skip: Skip) -> bool:
        """Whether the list allows this skip for this reason."""
        expression = ".*".join(re.escape(part) for part in self.pattern.split("*"))
        matches = re.fullmatch(expression, skip.nodeid) is not None
        return matches and skip.reason.startswith(self.reason)


def read_expected(path: Path) -> list[ExpectedSkip]:
    """The committed list. Raises ValueError for a line without a reason."""
    expected = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        pattern, _, reason = (part.strip() for part in line.partition("  --  "))
        if not reason:
            raise ValueError(f"{path.name}, line {number}: a skip needs its reason after '  --  '")
        expected.append(ExpectedSkip(pattern, reason))
    return expected


class SkipPolicy:
    """A pytest plugin: gathers the skips of a run and, with CI=true, judges them at its end."""

    def __init__(self, expected: Path) -> None:
        """`expected` is the committed list; it is read at once, so that an error in it shows."""
        self._list = expected
        self._expected = read_expected(expected)
        self._skips: list[Skip] = []

    def unexpected(self) -> list[Skip]:
        """The skips so far that the list does not cover; none outside of CI."""
        if os.environ.get("CI", "").lower() != "true":
            return []
        return [s for s in self._skips if not any(e.covers(s) for e in self._expected)]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A skipped test. An expected failure (xfail) is reported as skipped too, but has run."""
        if report.skipped and not hasattr(report, "wasxfail"):
            self._skips.append(Skip(report.nodeid, _reason(report.longrepr)))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A skipped module."""
        if report.skipped:
            self._skips.append(Skip(report.nodeid, _reason(report.longrepr)))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Turn a success with unexpected skips into a failure."""
        if self.unexpected() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name the unexpected skips."""
        if unexpected := self.unexpected():
            terminalreporter.section("unexpected skips", sep="=", red=True)
            terminalreporter.write_line(f"not in {self._list.name}, so this run has failed:")
            for skip in unexpected:
                terminalreporter.write_line(f"  {skip}")


def _reason(longrepr: object) -> str:
    """The text given to skip(); pytest reports it with the place where it was called."""
    text = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    return str(text).removeprefix("Skipped: ")
