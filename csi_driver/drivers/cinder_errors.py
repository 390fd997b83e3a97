"""From errors of volume files to the exceptions that a Cinder driver raises.

Used by the modules of the file driver around everything that touches the directory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import TracebackType

from cinder import exception

from csi_driver.drivers.errors import (
    NotAdoptable,
    PoolFull,
    UnsafeName,
    VolumeFileBusy,
    VolumeFileError,
    VolumeFileExists,
    VolumeFileMissing,
)


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Say of an operating system's error that the directory had it."""
    try:
        yield
    except OSError as error:
        raise VolumeFileError(f"The volume directory cannot be used: {error}") from error


class as_cinder:
    """Raise what a Cinder driver raises; ``missing`` is made of a file that is not there."""

    def __init__(self, missing: Callable[[str], Exception] = exception.VolumeNotFound) -> None:
        self._missing = missing

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, VolumeFileError):
            raise self._translated(error) from error

    def _translated(self, error: VolumeFileError) -> Exception:
        text = str(error)
        found: Exception
        match error:
            case PoolFull():
                found = exception.NoValidBackend(reason=text)
            case UnsafeName():
                found = exception.InvalidInput(reason=text)
            case VolumeFileBusy():
                found = exception.VolumeIsBusy(text)
            case NotAdoptable():
                found = exception.ManageExistingInvalidReference(
                    existing_ref=error.message, reason=error.advice
                )
            case VolumeFileExists():
                found = exception.Duplicate(text)
            case VolumeFileMissing():
                found = self._missing(text)
            case _:
                found = exception.VolumeBackendAPIException(data=text)
        return found
