"""One controller per store: a file lock that names its holder.

Used by ``database``.  ``flock`` ends with its process, however that ends, so a
killed controller leaves no lock behind.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from csi_driver.cinderlib.persistence.store import StoreLocked


class ProcessLock:
    """Holds ``path`` from its making until :meth:`release` or the end of the process.

    The file stays: removing it would let two processes lock two files of one name.

    :raises StoreLocked: another holds it; the message names its process.
    :raises OSError: the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)
        except BlockingIOError as error:
            holder = os.pread(self._descriptor, 32, 0).decode("ascii", "replace") or "unknown"
            self.release()
            raise StoreLocked(
                f"The record store of {path} is in use by the process {holder}"
            ) from error
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Let the next one in; may be called twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
