"""Runs tests inside a lab kernel and reports them as if they had run here.

A plugin of pytest on the host, registered by tests/lab/storage/conftest.py. The host collects the
tests; at the first of a group it boots a kernel, in which ``reports`` runs pytest for the whole
group (one Python process: importing Cinder takes seconds), and hands on each report as it comes.
Tests that are marked ``two_kernels`` have a second kernel beside theirs, another host on the same
network, which runs ``agent``. They are run last: one group at a time has a kernel, and each has one
only once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from tests.lab.host.kernel import Job, Kernel, processors, scratch_directory
from tests.lab.host.network import network

INSIDE = "CSI_LAB_INSIDE"
"""In the environment of what runs inside a lab kernel."""

ADDRESS, OTHER_ADDRESS = "CSI_LAB_ADDRESS", "CSI_LAB_OTHER_ADDRESS"
"""In the environment of two kernels: the kernel's own address, and that of the other."""

_SECONDS = 1800.0
"""For a kernel with all its tests; they take a third of it on a machine that is not busy."""

_ADDRESSES = ("10.77.0.1", "10.77.0.2")


class Relay:
    """Gives the reports of tests that run inside, in the order of the session.

    :param start: boots a kernel for the tests of these ids, with another beside it if the last
        argument says so.
    """

    def __init__(self, start: Start | None = None) -> None:
        self._start = start or started
        self._running = contextlib.ExitStack()
        self._group: Group | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Bring together the tests that can share a kernel."""
        items.sort(key=_needs_two)

    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Report a test of the lab kernel; leave every other to pytest."""
        if not _is_inside(item):
            return None
        location = item.location
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=location)
        for report in self._reports(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=location)
        return True

    def pytest_sessionfinish(self) -> None:
        """End the kernel that runs last."""
        self._running.close()

    def _reports(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        if self._group is None or item.nodeid not in self._group.nodeids:
            self._running.close()
            self._group = None
            # Clean up at SIGTERM as at an interrupt from the keyboard: namespaces stay otherwise.
            signal.signal(signal.SIGTERM, lambda *_: pytest.exit("terminated", returncode=143))
            group = self._start(item.config, _together(item), _needs_two(item))
            try:
                self._group = self._running.enter_context(group)
            except Exception as error:
                yield _failed(item, f"The lab kernel cannot be started: {error}")
                return
        yield from self._group.reports(item)


class Group:
    """Tests that run in one kernel, and what is known of them so far."""

    def __init__(self, config: pytest.Config, nodeids: list[str], kernels: list[Kernel]) -> None:
        """The first kernel is that of the tests."""
        self.nodeids = frozenset(nodeids)
        self._config = config
        self._kernels = kernels
        kernel = kernels[0]
        self._console = kernel.lines()
        self._file = kernel.scratch / "reports"
        self._file.touch()
        self._read = self._file.open()
        self._begun = ""
        self._known: dict[str, list[pytest.TestReport]] = {}

    def close(self) -> None:
        """Close the file of reports."""
        self._read.close()

    def reports(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        """The reports of one test; a failure when the kernel ended without them."""
        while not self._complete(item.nodeid):
            # A line of the console is also the sign that there may be a report.
            if next(self._console, None) is None and not self._complete(item.nodeid):
                yield _failed(item, f"The lab kernel ended without a report:\n{self._consoles()}")
                return
        for report in self._known[item.nodeid]:
            if report.failed:
                report.sections.append(("console of the lab kernel", self._consoles()))
            yield report

    def _consoles(self) -> str:
        return "\n[the other kernel]\n".join(kernel.end_of_log() for kernel in self._kernels)

    def _complete(self, nodeid: str) -> bool:
        while line := self._read.readline():
            self._begun += line
            if not line.endswith("\n"):
                break  # a long report, which the guest is still writing
            data, self._begun = json.loads(self._begun), ""
            told = self._config.hook.pytest_report_from_serializable(config=self._config, data=data)
            self._known.setdefault(told.nodeid, []).append(told)
        return any(report.when == "teardown" for report in self._known.get(nodeid, ()))


Start = Callable[[pytest.Config, list[str], bool], AbstractContextManager[Group]]


@contextlib.contextmanager
def started(config: pytest.Config, nodeids: list[str], two: bool) -> Iterator[Group]:
    """A kernel with the tests running in it, and the other host if they need one."""
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(scratch_directory())
        environment = {INSIDE: str(scratch), "PYTHONDONTWRITEBYTECODE": "1"}
        on = (processors() * 2)[:2]
        here = Job(
            name="here",
            command=[sys.executable, "-m", "tests.lab.storage.reports", f"{scratch}/reports"],
            processor=on[0],
            seconds=_SECONDS,
            environment=environment,
        )
        others: list[Kernel] = []
        if two:
            made = stack.enter_context(network(2))
            here, there = (
                dataclasses.replace(
                    here,
                    name=name,
                    processor=processor,
                    environment={**environment, ADDRESS: own, OTHER_ADDRESS: other},
                    tap=tap,
                    namespace=made.namespace,
                )
                for name, processor, (own, other), tap in zip(
                    ("here", "there"),
                    on,
                    (_ADDRESSES, _ADDRESSES[::-1]),
                    made.taps,
                    strict=True,
                )
            )
            agent = [sys.executable, "-m", "tests.lab.storage.agent"]
            second = Kernel(dataclasses.replace(there, command=agent), scratch)
            others.append(stack.enter_context(second))
        here = dataclasses.replace(here, command=[*here.command, *nodeids])
        kernel = stack.enter_context(Kernel(here, scratch))
        yield stack.enter_context(contextlib.closing(Group(config, nodeids, [kernel, *others])))


def _is_inside(item: pytest.Item) -> bool:
    return item.get_closest_marker("in_lab_kernel") is not None


def _needs_two(item: pytest.Item) -> bool:
    return item.get_closest_marker("two_kernels") is not None


def _together(first: pytest.Item) -> list[str]:
    """The tests from ``first`` on that can share its kernel: up to one that cannot."""
    items = first.session.items
    following = filter(_is_inside, items[items.index(first) :])
    alike = itertools.takewhile(lambda item: _needs_two(item) is _needs_two(first), following)
    return [item.nodeid for item in alike]


def _failed(item: pytest.Item, why: str) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords={},
        outcome="failed",
        longrepr=why,
        when="call",
    )
