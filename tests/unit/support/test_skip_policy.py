"""The rule on skipped tests, tried on small runs of pytest."""

import textwrap

import pytest

CONFTEST = """
from pathlib import Path
from tests.support.skips import SkipPolicy

def pytest_configure(config):
    config.pluginmanager.register(SkipPolicy(Path(__file__).with_name("expected.txt")))
"""

TESTS = """
import pytest

def test_runs():
    pass

@pytest.mark.parametrize("store", ["db", "memory"])
def test_skips(store):
    pytest.skip("no Go here")
"""


def run(
    pytester: pytest.Pytester, *, expected: str = "", tests: str = TESTS
) -> tuple[pytest.ExitCode | int, str]:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_it=tests)
    pytester.path.joinpath("expected.txt").write_text(textwrap.dedent(expected))
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    return result.ret, result.stdout.str() + result.stderr.str()


@pytest.fixture(autouse=True)
def in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")


def test_a_skip_that_is_not_on_the_list_fails_the_run(pytester: pytest.Pytester) -> None:
    code, output = run(pytester)
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "test_it.py::test_skips[db]  --  no Go here" in output


def test_a_skip_on_the_list_is_allowed(pytester: pytest.Pytester) -> None:
    code, output = run(pytester, expected="test_it.py::test_skips[*]  --  no Go\n")
    assert code == pytest.ExitCode.OK
    assert "unexpected skips" not in output


def test_brackets_in_the_list_mean_themselves(pytester: pytest.Pytester) -> None:
    code, output = run(pytester, expected="test_it.py::test_skips[db]  --  no Go\n")
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "test_skips[memory]  --" in output
    assert "test_skips[db]  --" not in output


def test_the_reason_has_to_be_the_expected_one(pytester: pytest.Pytester) -> None:
    code, _ = run(pytester, expected="test_it.py::*  --  no root\n")
    assert code == pytest.ExitCode.TESTS_FAILED


def test_a_skipped_module_counts(pytester: pytest.Pytester) -> None:
    module = "import pytest\npytest.skip('no kernel', allow_module_level=True)\n"
    code, output = run(pytester, tests=module)
    assert code != pytest.ExitCode.OK
    assert "test_it.py  --  no kernel" in output


def test_an_expected_failure_is_no_skip(pytester: pytest.Pytester) -> None:
    tests = "import pytest\n@pytest.mark.xfail\ndef test_fails():\n    assert 0\n"
    code, _ = run(pytester, tests=tests)
    assert code == pytest.ExitCode.OK


def test_outside_of_ci_every_skip_is_allowed(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "")
    code, _ = run(pytester)
    assert code == pytest.ExitCode.OK


def test_a_line_without_a_reason_is_refused(pytester: pytest.Pytester) -> None:
    code, output = run(pytester, expected="# a remark\ntest_it.py::test_skips\n")
    assert code != pytest.ExitCode.OK
    assert "expected.txt, line 2: a skip needs its reason" in output
