"""The relay of the lab: what runs in a kernel is run once there, and told as if it had run here.

A process of this host stands in for the kernel. All else is the lab's own: the order of the tests,
pytest inside, its file of reports, the console.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.lab.host import relay

ROOT = Path(__file__).parents[3]

CONFTEST = """
import contextlib, os, sys
from pathlib import Path
import pytest
from tests.lab.host import relay
from tests.lab.host.kernel import Job, Kernel, scratch_directory

INSIDE = relay.INSIDE in os.environ
HERE = Path(__file__).parent

class Process(Kernel):
    def command(self, job, script):
        return ["sh", str(script)]

@contextlib.contextmanager
def start(config, nodeids, two):
    with (HERE / "kernels").open("a") as file:
        print(two, *(nodeid.rpartition("::")[2] for nodeid in nodeids), file=file)
    with scratch_directory() as scratch:
        inside = [sys.executable, "-m", "tests.lab.storage.reports", f"{scratch}/reports", *nodeids]
        job = Job(
            name="here",
            command=["env", "-C", str(config.rootpath), *inside],
            processor=0,
            seconds=100,
            environment={relay.INSIDE: str(scratch)},
        )
        with Process(job, scratch) as process:
            with contextlib.closing(relay.Group(config, nodeids, [process])) as group:
                yield group

def pytest_configure(config):
    config.addinivalue_line("markers", "in_lab_kernel: ")
    config.addinivalue_line("markers", "two_kernels: ")
    if not INSIDE:
        config.pluginmanager.register(relay.Relay(start))

def pytest_collection_modifyitems(items):
    for item in items:
        if not INSIDE and item.path.name != "test_host.py":
            item.add_marker(pytest.mark.in_lab_kernel)

@pytest.fixture
def ran(request):
    with (HERE / "ran").open("a") as file:
        print(request.node.name, "inside" if INSIDE else "here", file=file)
"""

ONE = """
import pytest
pytestmark = pytest.mark.usefixtures("ran")
def test_{name}_passes(): pass
def test_{name}_fails(): assert "{name}" == ""
"""

TWO = """
import pytest
pytestmark = [pytest.mark.usefixtures("ran"), pytest.mark.two_kernels]
def test_remote(): pass
"""

HOST = """
import pytest
@pytest.mark.usefixtures("ran")
def test_host(): pass
"""

DIES = """
import os, signal
def test_before(): pass
def test_dies(): os.kill(os.getpid(), signal.SIGKILL)
def test_after(): pass
"""


@pytest.fixture
def lab(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for tests that are relayed."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    directory = pytester.mkdir("tests") / "lab" / "storage"
    directory.mkdir(parents=True)
    (directory / "conftest.py").write_text(CONFTEST)
    return directory


def run(pytester: pytest.Pytester, lab: Path, **tests: str) -> pytest.RunResult:
    for name, content in tests.items():
        (lab / f"test_{name}.py").write_text(content)
    return pytester.runpytest_subprocess("-v", "-p", "no:cacheprovider", "--rootdir=.", "tests")


def test_every_test_runs_once_and_every_kernel_is_started_once(
    pytester: pytest.Pytester, lab: Path
) -> None:
    """One that needs two kernels lies between those that need one."""
    result = run(
        pytester,
        lab,
        a=ONE.format(name="a"),
        host=HOST,
        remote=TWO,
        z=ONE.format(name="z"),
    )
    result.assert_outcomes(passed=4, failed=2)
    result.stdout.fnmatch_lines(["E *AssertionError: assert 'z' == ''"])
    assert (lab / "kernels").read_text().splitlines() == [
        "False test_a_passes test_a_fails test_z_passes test_z_fails",
        "True test_remote",
    ]
    assert sorted((lab / "ran").read_text().splitlines()) == [
        "test_a_fails inside",
        "test_a_passes inside",
        "test_host here",
        "test_remote inside",
        "test_z_fails inside",
        "test_z_passes inside",
    ]


def test_when_the_kernel_dies_the_tests_without_a_report_fail(
    pytester: pytest.Pytester, lab: Path
) -> None:
    result = run(pytester, lab, dies=DIES)
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(["*The lab kernel ended without a report:*"])
    assert len((lab / "kernels").read_text().splitlines()) == 1


def test_a_report_is_read_when_all_of_it_is_there(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The console may say something while the guest writes a long report."""
    config = request.config
    report = pytest.TestReport(
        "test_it", ("test_it.py", 1, "test_it"), {}, "passed", None, "teardown"
    )
    data: Any = config.hook.pytest_report_to_serializable(config=config, report=report)
    text = json.dumps(data) + "\n"

    def console() -> Iterator[str]:
        for part in (text[:10], text[10:20], text[20:]):
            with (tmp_path / "reports").open("a") as file:
                file.write(part)
            yield "a line"

    kernel: Any = SimpleNamespace(scratch=tmp_path, lines=console)
    group = relay.Group(config, ["test_it"], [kernel])
    item: Any = SimpleNamespace(nodeid="test_it")
    assert [told.nodeid for told in group.reports(item)] == ["test_it"]
    group.close()
