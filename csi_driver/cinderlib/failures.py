"""What an error of a driver means.  Pure; imports neither Cinder nor any vendor's SDK.

Called by ``controller`` and by the object layer.  Drivers raise Cinder's
exceptions, os-brick's, those of their SDK, or whatever Python gave them.  They are
recognised by the names of their classes, so that ``rbd.ImageExists`` is known on a
machine that has no ``rbd``.  What is not recognised may have had effect: that is the
answer that never loses a volume.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from csi_driver.base.errors import CinderCSIError
from csi_driver.base.masking import SECRETS
from csi_driver.cinderlib.exceptions import InvalidVolume, OperationNotSupported

_MAX_MESSAGE = 500


class FailureKind(StrEnum):
    """Kinds of failures that callers treat differently."""

    NOT_FOUND = "not_found"
    INVALID = "invalid"
    EXISTS = "exists"
    BUSY = "busy"
    NO_SPACE = "no_space"
    CONNECTOR_REFUSED = "connector_refused"
    NOT_SUPPORTED = "not_supported"
    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    UNCLASSIFIED = "unclassified"


@dataclass(frozen=True)
class Failure:
    """An error, understood.

    :param message: one line without secrets.
    :param may_have_effect: whether the backend may have changed before the error.
    """

    kind: FailureKind
    message: str
    may_have_effect: bool


_KINDS: dict[FailureKind, tuple[str, ...]] = {
    # Only what says "the volume or snapshot itself": a missing type, file or option
    # must not pass for a volume that is gone.
    FailureKind.NOT_FOUND: (
        "cinder.exception.VolumeNotFound",
        "cinder.exception.SnapshotNotFound",
        "cinder.exception.VolumeSnapshotNotFound",
        "rbd.ImageNotFound",
    ),
    FailureKind.CONNECTOR_REFUSED: ("cinder.exception.InvalidConnectorException",),
    FailureKind.EXISTS: (
        "cinder.exception.Duplicate",
        "cinder.exception.ManageExistingAlreadyManaged",
        "rbd.ImageExists",
        "builtins.FileExistsError",
    ),
    FailureKind.BUSY: (
        "cinder.exception.VolumeIsBusy",
        "cinder.exception.SnapshotIsBusy",
        "cinder.exception.VolumeAttached",
        "cinder.exception.DeviceUnavailable",
        "rbd.ImageBusy",
        "rbd.ImageHasSnapshots",
        "csi_driver.drivers.errors.VolumeFileBusy",
    ),
    FailureKind.NO_SPACE: (
        "cinder.exception.QuotaError",
        "cinder.exception.OverQuota",
        "cinder.exception.NoValidBackend",
        "cinder.exception.RemoteFSNoSuitableShareFound",
        "cinder.exception.SnapshotLimitReached",
        "cinder.volume.drivers.dell_emc.xtremio.XtremIOSnapshotsLimitExceeded",
        "csi_driver.drivers.errors.PoolFull",
        "rados.NoSpace",
        "rbd.DiskQuotaExceeded",
        "rbd.NoSpace",
    ),
    FailureKind.NOT_SUPPORTED: (
        "builtins.NotImplementedError",
        "cinder.exception.NotSupportedOperation",
    ),
    FailureKind.TIMEOUT: (
        "builtins.TimeoutError",
        "cinder.exception.APITimeout",
        "cinder.exception.RPCTimeout",
        "os_brick.exception.ExecutionTimeout",
        "rados.InterruptedOrTimeoutError",
        "rados.TimedOut",
        "rbd.Timeout",
        "requests.exceptions.Timeout",
        "socket.timeout",
        "urllib3.exceptions.TimeoutError",
    ),
    FailureKind.UNAVAILABLE: (
        "builtins.ConnectionError",
        "cinder.exception.APIException",
        "cinder.exception.DriverNotInitialized",
        "cinder.exception.ServiceUnavailable",
        # The array as a whole, not the volume: BUSY would be final.
        "cinder.volume.drivers.dell_emc.xtremio.XtremIOArrayBusy",
        "cinder.volume.drivers.kaminario.kaminario_common.KaminarioRetryableException",
        "csi_driver.drivers.errors.VolumeDirectoryAway",
        "paramiko.ssh_exception.NoValidConnectionsError",
        "rados.ConnectionShutdown",
        "rados.ObjectNotFound",
        "rbd.ConnectionShutdown",
        # The lock of an image that is opened for writing cannot be had in time.
        "rbd.ReadOnlyImage",
        "requests.exceptions.ConnectionError",
        "socket.gaierror",
        "urllib3.exceptions.HTTPError",
    ),
    FailureKind.INVALID: ("cinder.exception.Invalid", "builtins.ValueError"),
}

_BY_CLASS = {name: kind for kind, names in _KINDS.items() for name in names}

_BY_ERRNO = {
    errno.ENOSPC: FailureKind.NO_SPACE,
    errno.EDQUOT: FailureKind.NO_SPACE,
    errno.EBUSY: FailureKind.BUSY,
    errno.ETIMEDOUT: FailureKind.TIMEOUT,
    errno.EHOSTUNREACH: FailureKind.UNAVAILABLE,
    errno.ENETUNREACH: FailureKind.UNAVAILABLE,
}

_NO_EFFECT = frozenset({FailureKind.CONNECTOR_REFUSED, FailureKind.NOT_SUPPORTED})
"""Kinds that say that the driver refused before it did anything."""

_REFUSALS: dict[type[CinderCSIError], FailureKind] = {
    OperationNotSupported: FailureKind.NOT_SUPPORTED,
    InvalidVolume: FailureKind.INVALID,
}
"""The object layer's own refusals, which come before a driver is called.

No other exception of this package is among them: a driver that asks the database for
something unknown, or a store that fails while it saves, is in the middle of its work.
"""

PARTLY_DONE = "partly_done"
"""Attribute that the manager sets on an error of a later driver call of one operation.

The driver refused that call before it did anything; the calls before it had effect.
"""

_FROM_CAUSE = frozenset({FailureKind.NO_SPACE, FailureKind.TIMEOUT, FailureKind.UNAVAILABLE})
"""Kinds that a wrapped error lends to its wrapper.

Drivers wrap nearly everything in VolumeBackendAPIException.  "Not found" is not taken
from a cause: a lookup that failed on the way says nothing about the volume.
"""


def classify(error: BaseException) -> Failure:
    """Say what an error of a driver means, by its class and those of its causes."""
    for refusal, meaning in _REFUSALS.items():
        if isinstance(error, refusal):
            return Failure(meaning, _one_line(str(error)), may_have_effect=False)
    kind = _kind(error)
    if kind is FailureKind.UNCLASSIFIED:
        lent = (_kind(cause) for cause in _causes(error))
        kind = next((found for found in lent if found in _FROM_CAUSE), kind)
    began = bool(getattr(error, PARTLY_DONE, False))
    return Failure(kind, message_of(error), may_have_effect=began or kind not in _NO_EFFECT)


def message_of(error: BaseException) -> str:
    """An error as one line, secrets masked; the class's name when it says nothing.

    For a failed command: the command, its exit code and the end of what it said.
    """
    if hasattr(error, "exit_code") and hasattr(error, "cmd"):
        text = _command_message(error)
    else:
        text = str(getattr(error, "msg", None) or error)
    return _one_line(text) or type(error).__name__


def _kind(error: BaseException) -> FailureKind:
    if isinstance(error, OSError) and error.errno is not None:
        by_number = _BY_ERRNO.get(error.errno)
        if by_number is not None:
            return by_number
    for cls in type(error).__mro__:
        kind = _BY_CLASS.get(f"{cls.__module__}.{cls.__qualname__}")
        if kind is not None:
            return kind
    return FailureKind.UNCLASSIFIED


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen = {id(error)}
    cause = error.__cause__ or error.__context__
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _command_message(error: Any) -> str:
    said = (error.stderr or error.stdout or "").strip().splitlines()
    end = f": {said[-1]}" if said else ""
    return f"command {error.cmd!r} failed with exit code {error.exit_code}{end}"


def _one_line(text: str) -> str:
    from oslo_utils import strutils

    # First, since a secret may hold more than one space in a row.
    line = " ".join(SECRETS.mask(text).split())
    line = strutils.mask_password(line).rstrip(".")
    return line if len(line) <= _MAX_MESSAGE else f"{line[:_MAX_MESSAGE]}..."
