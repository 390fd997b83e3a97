"""What errors of drivers mean."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from csi_driver.cinderlib.exceptions import InvalidSize
from csi_driver.cinderlib.failures import FailureKind, classify


def vendor(name: str, base: type[Exception] = Exception) -> type[Exception]:
    """An exception class as a library that is not installed here has it."""
    module, _, short = name.rpartition(".")
    return type(short, (base,), {"__module__": module})


def cinder(name: str, **details: Any) -> Exception:
    from cinder import exception

    made: Exception = getattr(exception, name)(**details)
    return made


@pytest.fixture(autouse=True)
def _runtime(runtime: object) -> None:
    """Cinder's exceptions are imported after the process was set up."""


@pytest.mark.parametrize(
    ("name", "details", "kind"),
    [
        ("VolumeNotFound", {"volume_id": "v"}, FailureKind.NOT_FOUND),
        ("SnapshotNotFound", {"snapshot_id": "s"}, FailureKind.NOT_FOUND),
        ("InvalidConnectorException", {"missing": "wwpns"}, FailureKind.CONNECTOR_REFUSED),
        ("VolumeIsBusy", {"volume_name": "v"}, FailureKind.BUSY),
        ("SnapshotIsBusy", {"snapshot_name": "s"}, FailureKind.BUSY),
        ("NfsNoSuitableShareFound", {"volume_size": 1}, FailureKind.NO_SPACE),
        ("InvalidInput", {"reason": "r"}, FailureKind.INVALID),
        ("ServiceUnavailable", {}, FailureKind.UNAVAILABLE),
        ("APITimeout", {"service": "array"}, FailureKind.TIMEOUT),
        ("ManageExistingAlreadyManaged", {"volume_ref": "v"}, FailureKind.EXISTS),
        ("VolumeBackendAPIException", {"data": "odd"}, FailureKind.UNCLASSIFIED),
    ],
)
def test_cinder_s_exceptions_are_known(
    name: str, details: dict[str, Any], kind: FailureKind
) -> None:
    assert classify(cinder(name, **details)).kind is kind


@pytest.mark.parametrize("name", ["VolumeTypeNotFound", "FileNotFound", "ConfigNotFound"])
def test_another_thing_that_is_missing_is_no_missing_volume(name: str) -> None:
    error = cinder(name, message="m")

    assert classify(error).kind is FailureKind.UNCLASSIFIED


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("rbd.ImageExists", FailureKind.EXISTS),
        ("rbd.ImageNotFound", FailureKind.NOT_FOUND),
        ("rbd.Timeout", FailureKind.TIMEOUT),
        ("rbd.NoSpace", FailureKind.NO_SPACE),
        ("rbd.ConnectionShutdown", FailureKind.UNAVAILABLE),
        ("requests.exceptions.ConnectionError", FailureKind.UNAVAILABLE),
    ],
)
def test_a_vendor_s_exceptions_are_known_without_its_library(name: str, kind: FailureKind) -> None:
    derived = vendor("site.Special", vendor(name))

    assert classify(derived("x")).kind is kind


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, FailureKind.NO_SPACE),
        (errno.EBUSY, FailureKind.BUSY),
        (errno.ETIMEDOUT, FailureKind.TIMEOUT),
        (errno.ECONNREFUSED, FailureKind.UNAVAILABLE),
        (errno.EEXIST, FailureKind.EXISTS),
        (errno.EIO, FailureKind.UNCLASSIFIED),
    ],
)
def test_system_errors_are_known_by_their_number(number: int, kind: FailureKind) -> None:
    assert classify(OSError(number, "x")).kind is kind


def raised(wrapper: Exception, cause: Exception) -> Exception:
    try:
        try:
            raise cause
        except Exception:
            raise wrapper  # noqa: B904 - as drivers do, without "from"
    except Exception as error:
        return error


def test_a_wrapped_error_says_that_there_is_no_space() -> None:
    wrapper = cinder("VolumeBackendAPIException", data="create failed")

    assert classify(raised(wrapper, OSError(errno.ENOSPC, "x"))).kind is FailureKind.NO_SPACE


def test_a_wrapped_not_found_does_not_pass_for_a_volume_that_is_gone() -> None:
    wrapper = cinder("VolumeBackendAPIException", data="delete failed")
    failure = classify(raised(wrapper, cinder("VolumeNotFound", volume_id="v")))

    assert failure.kind is FailureKind.UNCLASSIFIED
    assert failure.may_have_effect


def test_only_refusals_are_known_to_have_had_no_effect() -> None:
    no_effect = {
        kind: classify(error).may_have_effect
        for kind, error in {
            "connector": cinder("InvalidConnectorException", missing="x"),
            "not implemented": NotImplementedError(),
            "ours": InvalidSize("too small"),
        }.items()
    }

    assert not any(no_effect.values())
    for error in (RuntimeError(), cinder("VolumeIsBusy", volume_name="v"), OSError(errno.EIO, "")):
        assert classify(error).may_have_effect


def test_the_message_of_a_failed_command_is_its_last_line() -> None:
    from oslo_concurrency import processutils

    error = processutils.ProcessExecutionError(
        stdout="", stderr="warning: x\n  Volume group full.\n", exit_code=5, cmd="lvcreate -n v"
    )

    assert classify(error).message == (
        "command 'lvcreate -n v' failed with exit code 5:   Volume group full".replace("   ", " ")
    )


def test_a_message_is_one_short_line_without_passwords() -> None:
    error = RuntimeError("login failed:\n {'auth_password': 'hunter2'} " + "x" * 2000)
    message = classify(error).message

    assert "hunter2" not in message
    assert "\n" not in message
    assert len(message) < 600


def test_an_error_that_says_nothing_is_called_by_its_class() -> None:
    assert classify(KeyError()).message == "KeyError"


def test_a_cause_that_leads_back_to_itself_ends() -> None:
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first

    assert classify(first).kind is FailureKind.UNCLASSIFIED
