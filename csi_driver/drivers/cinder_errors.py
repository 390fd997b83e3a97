"""From errors of volume files to the exceptions that a Cinder driver raises.

Used by the modules of the file driver around everything that touches the directory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

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


@contextlib.contextmanager
def as_cinder(
    missing: Callable[[str], Exception] = exception.VolumeNotFound,
) -> Iterator[None]:
    """Raise what a Cinder driver raises; ``missing`` is made of a file that is not there."""
    try:
        yield
    except PoolFull as error:
        raise exception.NoValidBackend(reason=str(error)) from error
    except UnsafeName as error:
        raise exception.InvalidInput(reason=str(error)) from error
    except VolumeFileBusy as error:
        raise exception.VolumeIsBusy(str(error)) from error
    except NotAdoptable as error:
        raise exception.ManageExistingInvalidReference(
            existing_ref=error.message, reason=error.advice
        ) from error
    except VolumeFileExists as error:
        raise exception.Duplicate(str(error)) from error
    except VolumeFileMissing as error:
        raise missing(str(error)) from error
    except VolumeFileError as error:
        raise exception.VolumeBackendAPIException(data=str(error)) from error
