"""The one table from exceptions to gRPC codes.

Every exception class of the project has a row; a test walks all the classes and
fails for one without.  Rows name classes by their path, so that a node process
can use the table without importing the controller's rooms.  Whether a code is
final decides about leaks: after a final code the sidecars and kubelet believe
that nothing was done and may stop calling; after another they repeat the call.
``docs/errors.md`` is generated from this table.
"""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from csi_driver.base.errors import CinderCSIError

Code = grpc.StatusCode

NON_FINAL = frozenset({Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.UNAVAILABLE, Code.ABORTED})
"""Codes after which every caller repeats the call.

RESOURCE_EXHAUSTED is not among them: external-provisioner takes it for final.
"""

_BASE = "csi_driver.base.errors."
_CONTROLLER = "csi_driver.controller.errors."
_LIBRARY = "csi_driver.cinderlib.exceptions."
_STORE = "csi_driver.cinderlib.persistence.store."

TABLE: dict[str, grpc.StatusCode] = {
    # base
    _BASE + "CinderCSIError": Code.ABORTED,
    _BASE + "InvalidRequest": Code.INVALID_ARGUMENT,
    _BASE + "ConfigurationError": Code.FAILED_PRECONDITION,
    _BASE + "StateDirectoryError": Code.UNAVAILABLE,
    _BASE + "SealError": Code.FAILED_PRECONDITION,
    _BASE + "OperationInProgress": Code.ABORTED,
    _BASE + "ShuttingDown": Code.UNAVAILABLE,
    "csi_driver.base.publish_context.PublishContextTooLarge": Code.FAILED_PRECONDITION,
    "csi_driver.rpc.handlers.NotReady": Code.UNAVAILABLE,
    # record stores
    _STORE + "RecordConflict": Code.ABORTED,
    _STORE + "RecordExists": Code.ABORTED,
    _STORE + "StoreUnavailable": Code.UNAVAILABLE,
    _STORE + "StoreCorrupt": Code.FAILED_PRECONDITION,
    _STORE + "StoreTooNew": Code.FAILED_PRECONDITION,
    _STORE + "StoreLocked": Code.FAILED_PRECONDITION,
    # controller
    _CONTROLLER + "VolumeNotFound": Code.NOT_FOUND,
    _CONTROLLER + "SnapshotNotFound": Code.NOT_FOUND,
    _CONTROLLER + "NodeNotFound": Code.NOT_FOUND,
    _CONTROLLER + "SourceNotFound": Code.NOT_FOUND,
    _CONTROLLER + "IncompatibleExists": Code.ALREADY_EXISTS,
    _CONTROLLER + "PublishedIncompatible": Code.ALREADY_EXISTS,
    _CONTROLLER + "PublishedElsewhere": Code.FAILED_PRECONDITION,
    _CONTROLLER + "VolumeInUse": Code.FAILED_PRECONDITION,
    _CONTROLLER + "CapacityOutOfRange": Code.OUT_OF_RANGE,
    _CONTROLLER + "TopologyUnreachable": Code.RESOURCE_EXHAUSTED,
    _CONTROLLER + "AttachLimitReached": Code.RESOURCE_EXHAUSTED,
    _CONTROLLER + "BadToken": Code.ABORTED,
    _CONTROLLER + "BackendNoSpace": Code.RESOURCE_EXHAUSTED,
    _CONTROLLER + "BackendRefused": Code.FAILED_PRECONDITION,
    _CONTROLLER + "BackendUnsupported": Code.INVALID_ARGUMENT,
    _CONTROLLER + "BackendUnavailable": Code.UNAVAILABLE,
    _CONTROLLER + "BackendFailed": Code.INTERNAL,
    _CONTROLLER + "OutcomeUnknown": Code.ABORTED,
}


@dataclass(frozen=True)
class Status:
    """What a caller is told.  ``unexpected``: no row had the exception."""

    code: grpc.StatusCode
    message: str
    unexpected: bool = False


def path_of(kind: type) -> str:
    """The name of an exception class in the table."""
    return f"{kind.__module__}.{kind.__qualname__}"


def status_of(error: BaseException, *, effect: bool, reference: str) -> Status:
    """The status for an exception.

    :param effect: whether the call may have changed something.  If so, an
        exception that no row foresees answers a code that callers retry.
    :param reference: how the log names the call, for the unforeseen.
    """
    if isinstance(error, CinderCSIError):
        for kind in type(error).__mro__:
            if path_of(kind) in TABLE:
                return Status(TABLE[path_of(kind)], str(error))
    message = f"Unexpected {type(error).__name__}; the plugin's log tells more at {reference}"
    return Status(Code.ABORTED if effect else Code.INTERNAL, message, unexpected=True)
