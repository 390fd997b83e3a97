"""The one error table: complete, without dead rows, and safe for what nobody foresaw."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_driver.base.errors import CinderCSIError, InvalidRequest, OperationInProgress
from csi_driver.node.errors import StageRollbackFailed
from csi_driver.rpc.errors import NON_FINAL, TABLE, Code, one_line, path_of, status_of

WALK = """
import importlib, json, pathlib, pkgutil, sys
from csi_driver.cinderlib.runtime import bootstrap
bootstrap.setup(bootstrap.RuntimeSettings(state_path=pathlib.Path(sys.argv[1])))
import csi_driver
from csi_driver.base.errors import CinderCSIError
for module in pkgutil.walk_packages(csi_driver.__path__, "csi_driver."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
found, left = set(), [CinderCSIError]
while left:
    kind = left.pop()
    found.add(f"{kind.__module__}.{kind.__qualname__}")
    left += kind.__subclasses__()
print(json.dumps(sorted(found)))
"""


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Every exception class of the project; in a process of its own, since Cinder is set up."""
    state = tmp_path_factory.mktemp("cinder")
    done = subprocess.run(
        [sys.executable, "-c", WALK, str(state)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_every_exception_class_has_a_row_of_its_own(classes):
    assert classes - set(TABLE) == set()


def test_every_row_names_a_class_that_exists(classes):
    assert set(TABLE) - classes == set()


def test_no_row_says_ok_unknown_or_cancelled():
    assert not {Code.OK, Code.UNKNOWN, Code.CANCELLED} & set(TABLE.values())


@pytest.mark.parametrize(
    "path",
    [path for path in TABLE if path.endswith(("RollbackFailed", "OutcomeUnknown", "InProgress"))],
)
def test_what_may_have_left_something_is_never_final(path):
    assert TABLE[path] in NON_FINAL


def test_a_row_decides_and_the_message_is_the_errors_own():
    status = status_of(
        InvalidRequest("No such pool", advice="Name another"), effect=True, reference="r"
    )
    assert status.code is Code.INVALID_ARGUMENT
    assert status.message == "No such pool. Name another"
    assert not status.unexpected


def test_a_class_without_a_row_answers_as_its_nearest_base():
    class Special(StageRollbackFailed):
        pass

    assert status_of(Special("x"), effect=True, reference="r").code is Code.ABORTED


class VendorError(Exception):
    pass


def raised(error: BaseException) -> BaseException:
    """The error with a traceback, as a handler gets it."""
    try:
        raise error
    except BaseException as caught:
        return caught


UNFORESEEN = [VendorError("secret-password"), KeyError("x"), SystemExit(3), RecursionError()]


@pytest.mark.parametrize("error", UNFORESEEN, ids=lambda error: type(error).__name__)
def test_what_nobody_foresaw_is_retried_when_something_may_have_been_done(error):
    status = status_of(raised(error), effect=True, reference="request 7")
    assert status.code in NON_FINAL
    assert status.unexpected


@pytest.mark.parametrize("error", UNFORESEEN, ids=lambda error: type(error).__name__)
def test_what_nobody_foresaw_in_a_reading_call_is_internal(error):
    assert status_of(raised(error), effect=False, reference="r").code is Code.INTERNAL


@pytest.mark.parametrize(
    "error",
    [*UNFORESEEN, OperationInProgress("busy"), CinderCSIError("first\n  second\tthird")],
    ids=lambda error: type(error).__name__,
)
def test_a_message_is_one_line_without_traceback_or_foreign_text(error):
    text = status_of(raised(error), effect=True, reference="request 7").message
    assert "\n" not in text
    assert "Traceback" not in text
    assert Path(__file__).name not in text
    assert "secret-password" not in text


def test_an_unforeseen_error_says_where_the_log_tells_more():
    text = status_of(VendorError("x"), effect=True, reference="request 7").message
    assert text == "Unexpected VendorError; the plugin's log tells more at request 7"


@given(st.text())
def test_every_message_fits_into_a_header(text):
    line = one_line(text * 500)
    assert len(line.encode()) <= 2000
    assert "\n" not in line


def test_a_long_message_keeps_its_beginning_and_its_advice():
    error = InvalidRequest("ö" * 5000, advice="Name another pool")
    text = status_of(error, effect=True, reference="r").message
    assert text.startswith("öö")
    assert text.endswith("Name another pool")


def test_the_path_of_a_class_is_its_row():
    assert path_of(InvalidRequest) in TABLE
