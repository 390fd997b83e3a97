"""Inside the lab kernel: run pytest, and write every report to a file that the host reads.

``python -m tests.lab.storage.reports FILE NODE-ID...``, started by tests/lab/host/relay.py. A
report is a line of JSON, brought to the host before the next line goes to the console.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest


class Reports:
    """A plugin of pytest."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("a")
        self._config: pytest.Config

    def pytest_configure(self, config: pytest.Config) -> None:
        """Remember what serialises reports."""
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write a report, and see that it leaves this kernel's cache."""
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._file.write(json.dumps(data) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        if report.when == "teardown":
            print(f"\nreported: {report.nodeid}", file=sys.__stdout__, flush=True)


def main(file: str, *nodeids: str) -> int:
    """Run these tests; answers pytest's exit code."""
    # tests/conftest.py is for the host: it watches over what is skipped and collected there.
    options = ["-m", "", "-p", "no:cacheprovider", "--confcutdir=tests/lab/storage"]
    # Twice as long as on the host: programs start slowly here, more so when the host is busy.
    options.append("--timeout=600")
    return int(pytest.main([*options, "-v", "--durations=0", *nodeids], [Reports(Path(file))]))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
