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
from csi_driver.base.masking import SECRETS

Code = grpc.StatusCode

NON_FINAL = frozenset({Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.UNAVAILABLE, Code.ABORTED})
"""Codes after which every caller repeats the call.

RESOURCE_EXHAUSTED is not among them: external-provisioner takes it for final.
"""

_BASE = "csi_driver.base.errors."
_CONTROLLER = "csi_driver.controller.errors."
_NODE = "csi_driver.node.errors."
_FILESYSTEM = "csi_driver.node.filesystem_errors."
_ATTACH = "csi_driver.attach.errors."
_LIBRARY = "csi_driver.cinderlib.exceptions."
_STORE = "csi_driver.cinderlib.persistence.store."
_KUBE = "csi_driver.kube.errors."
_DRIVERS = "csi_driver.drivers.errors."

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
    "csi_driver.rpc.handlers.TooManyCalls": Code.UNAVAILABLE,
    # record stores
    _STORE + "RecordConflict": Code.ABORTED,
    _STORE + "RecordExists": Code.ABORTED,
    _STORE + "StoreUnavailable": Code.UNAVAILABLE,
    _STORE + "StoreCorrupt": Code.FAILED_PRECONDITION,
    _STORE + "StoreTooNew": Code.FAILED_PRECONDITION,
    _STORE + "StoreLocked": Code.FAILED_PRECONDITION,
    # the Kubernetes API; what the record store passes on is a StoreUnavailable
    _KUBE + "ApiError": Code.UNAVAILABLE,
    _KUBE + "NotLeading": Code.UNAVAILABLE,
    _KUBE + "ApiUnreachable": Code.UNAVAILABLE,
    _KUBE + "ApiOutcomeUnknown": Code.UNAVAILABLE,
    _KUBE + "ApiBusy": Code.UNAVAILABLE,
    _KUBE + "ApiNotFound": Code.UNAVAILABLE,
    _KUBE + "ApiResourceMissing": Code.UNAVAILABLE,
    _KUBE + "ApiConflict": Code.ABORTED,
    _KUBE + "ApiExpired": Code.UNAVAILABLE,
    _KUBE + "ApiForbidden": Code.UNAVAILABLE,
    _KUBE + "ApiInvalid": Code.UNAVAILABLE,
    # controller
    _CONTROLLER + "VolumeNotFound": Code.NOT_FOUND,
    _CONTROLLER + "SnapshotNotFound": Code.NOT_FOUND,
    _CONTROLLER + "NodeNotFound": Code.NOT_FOUND,
    _CONTROLLER + "SourceNotFound": Code.NOT_FOUND,
    _CONTROLLER + "SourceFormatted": Code.ABORTED,
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
    # node.  What fails in a stage is undone before the answer goes out, so that its
    # code may be final; what could not be undone is a *RollbackFailed, never final.
    "csi_driver.node.ports.LedgerUnavailable": Code.UNAVAILABLE,
    _NODE + "UnsupportedCapability": Code.FAILED_PRECONDITION,
    _NODE + "InvalidMountFlags": Code.INVALID_ARGUMENT,
    _NODE + "StagedIncompatible": Code.ALREADY_EXISTS,
    _NODE + "StaleMount": Code.FAILED_PRECONDITION,
    _NODE + "DeadMount": Code.UNAVAILABLE,
    _NODE + "FormattedMeanwhile": Code.UNAVAILABLE,
    _NODE + "DeviceReadOnly": Code.FAILED_PRECONDITION,
    _NODE + "MountFailed": Code.INTERNAL,
    _NODE + "UnmountFailed": Code.ABORTED,
    _NODE + "TargetBusy": Code.ABORTED,
    _NODE + "StageRollbackFailed": Code.ABORTED,
    _NODE + "PublishRollbackFailed": Code.ABORTED,
    _NODE + "StillPublished": Code.FAILED_PRECONDITION,
    _NODE + "StagingPathMissing": Code.FAILED_PRECONDITION,
    _NODE + "VolumeNotStaged": Code.FAILED_PRECONDITION,
    _NODE + "CapabilityNotStaged": Code.FAILED_PRECONDITION,
    _NODE + "PublishedIncompatible": Code.ALREADY_EXISTS,
    _NODE + "SecondTarget": Code.FAILED_PRECONDITION,
    _NODE + "TargetUnusable": Code.FAILED_PRECONDITION,
    _NODE + "VolumePathNotFound": Code.NOT_FOUND,
    _NODE + "InvalidCapacityRange": Code.OUT_OF_RANGE,
    # Not FAILED_PRECONDITION: that tells the kubelet to give up growing while in use.
    _NODE + "DeviceNotGrown": Code.UNAVAILABLE,
    _NODE + "NodeStateDamaged": Code.UNAVAILABLE,
    _FILESYSTEM + "UnsupportedFilesystem": Code.INVALID_ARGUMENT,
    _FILESYSTEM + "ForeignSignature": Code.FAILED_PRECONDITION,
    _FILESYSTEM + "NotBlank": Code.FAILED_PRECONDITION,
    _FILESYSTEM + "FormattedButBlank": Code.FAILED_PRECONDITION,
    _FILESYSTEM + "NotFormatted": Code.FAILED_PRECONDITION,
    _FILESYSTEM + "FilesystemMismatch": Code.FAILED_PRECONDITION,
    _FILESYSTEM + "FilesystemTypeConflict": Code.FAILED_PRECONDITION,
    _FILESYSTEM + "FilesystemNotMade": Code.INTERNAL,
    _FILESYSTEM + "FilesystemDamaged": Code.FAILED_PRECONDITION,
    _FILESYSTEM + "JournalNotReplayed": Code.FAILED_PRECONDITION,
    _FILESYSTEM + "FilesystemNotGrown": Code.INTERNAL,
    _FILESYSTEM + "GrowNotPermitted": Code.FAILED_PRECONDITION,
    # attach
    _ATTACH + "CommandFailed": Code.INTERNAL,
    _ATTACH + "CommandTimeout": Code.DEADLINE_EXCEEDED,
    _ATTACH + "CommandMissing": Code.FAILED_PRECONDITION,
    _ATTACH + "AttachFailed": Code.UNAVAILABLE,
    _ATTACH + "DetachFailed": Code.ABORTED,
    _ATTACH + "ConnectorPropertiesFailed": Code.UNAVAILABLE,
    _ATTACH + "UnsupportedTransport": Code.FAILED_PRECONDITION,
    _ATTACH + "UnsupportedImage": Code.FAILED_PRECONDITION,
    _ATTACH + "LoopDeviceFailed": Code.UNAVAILABLE,
    _ATTACH + "LoopDeviceBusy": Code.ABORTED,
    _ATTACH + "DeviceReadError": Code.UNAVAILABLE,
    _ATTACH + "EncryptionFailed": Code.FAILED_PRECONDITION,
    _ATTACH + "NotEncrypted": Code.FAILED_PRECONDITION,
    _ATTACH + "WrongKey": Code.FAILED_PRECONDITION,
    _ATTACH + "DeviceWriteError": Code.UNAVAILABLE,
    _ATTACH + "DeviceSizeMismatch": Code.FAILED_PRECONDITION,
    _ATTACH + "DeviceIdentityMismatch": Code.FAILED_PRECONDITION,
    _ATTACH + "AmbivalentSignatures": Code.FAILED_PRECONDITION,
    # object layer: mostly at the start or in the library; the controller has its own
    _LIBRARY + "SetupConflict": Code.FAILED_PRECONDITION,
    _LIBRARY + "NotSetUp": Code.FAILED_PRECONDITION,
    _LIBRARY + "UnknownDriver": Code.FAILED_PRECONDITION,
    _LIBRARY + "UnknownOption": Code.FAILED_PRECONDITION,
    _LIBRARY + "InvalidJSON": Code.INVALID_ARGUMENT,
    _LIBRARY + "InvalidOption": Code.FAILED_PRECONDITION,
    _LIBRARY + "MissingPackage": Code.FAILED_PRECONDITION,
    _LIBRARY + "UnsupportedDriver": Code.FAILED_PRECONDITION,
    _LIBRARY + "BackendExists": Code.FAILED_PRECONDITION,
    _LIBRARY + "BackendSetupFailed": Code.UNAVAILABLE,
    _LIBRARY + "NotProvided": Code.INTERNAL,
    _LIBRARY + "NotFound": Code.NOT_FOUND,
    _LIBRARY + "VolumeNotFound": Code.NOT_FOUND,
    _LIBRARY + "SnapshotNotFound": Code.NOT_FOUND,
    _LIBRARY + "GroupNotFound": Code.NOT_FOUND,
    _LIBRARY + "GroupSnapshotNotFound": Code.NOT_FOUND,
    _LIBRARY + "GroupFailed": Code.ABORTED,
    _LIBRARY + "ConnectionNotFound": Code.NOT_FOUND,
    _LIBRARY + "BackendNotFound": Code.NOT_FOUND,
    _LIBRARY + "InvalidVolume": Code.FAILED_PRECONDITION,
    _LIBRARY + "InvalidSize": Code.OUT_OF_RANGE,
    _LIBRARY + "InvalidReference": Code.INVALID_ARGUMENT,
    _LIBRARY + "InvalidPersistence": Code.FAILED_PRECONDITION,
    _LIBRARY + "NotLocal": Code.FAILED_PRECONDITION,
    _LIBRARY + "OperationNotSupported": Code.INVALID_ARGUMENT,
    # drivers of our own: they reach the controller as the exceptions of a Cinder driver
    _DRIVERS + "VolumeFileError": Code.INTERNAL,
    _DRIVERS + "VolumeDirectoryAway": Code.UNAVAILABLE,
    _DRIVERS + "UnsafeName": Code.INVALID_ARGUMENT,
    _DRIVERS + "VolumeFileMissing": Code.FAILED_PRECONDITION,
    _DRIVERS + "VolumeFileExists": Code.FAILED_PRECONDITION,
    _DRIVERS + "NotAdoptable": Code.FAILED_PRECONDITION,
    _DRIVERS + "VolumeFileBusy": Code.FAILED_PRECONDITION,
    _DRIVERS + "PoolFull": Code.RESOURCE_EXHAUSTED,
    # command line: they end the process, no caller sees them
    "csi_driver.rpc.server.SocketInUse": Code.FAILED_PRECONDITION,
    "csi_driver.rpc.client.NotServing": Code.UNAVAILABLE,
    "csi_driver.cli.demo.StepFailed": Code.INTERNAL,
    "csi_driver.cli.demo_life.DemoFailed": Code.INTERNAL,
    "csi_driver.cli.demo_process.DriverFailed": Code.INTERNAL,
}

_MESSAGE_BYTES = 2000
"""Longest message.

gRPC sends it as a header, where every byte that is no printable ASCII takes three,
and a client that gets more than 8 KiB of headers sees RESOURCE_EXHAUSTED instead of
the code: final for external-provisioner, whatever was meant.
"""


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
                return Status(TABLE[path_of(kind)], one_line(SECRETS.mask(str(error))))
    message = f"Unexpected {type(error).__name__}; the plugin's log tells more at {reference}"
    return Status(Code.ABORTED if effect else Code.INTERNAL, message, unexpected=True)


def one_line(text: str) -> str:
    """Text as one line that fits into a status; what is too long loses its middle.

    The end stays because the advice is there.
    """
    line = " ".join(text.split())
    raw = line.encode()
    if len(raw) <= _MESSAGE_BYTES:
        return line
    half = _MESSAGE_BYTES // 2 - 4
    head, tail = raw[:half].decode(errors="ignore"), raw[-half:].decode(errors="ignore")
    return f"{head} ... {tail}"
