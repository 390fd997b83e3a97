"""Keeps ``status.attachedTo`` of volumes current: a column for people, from the connections.

Used by ``store``.  Written by a thread of its own after the connections, so that it never
holds up a publish; it is no part of the record, and its loss harms nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from csi_driver.base.errors import CinderCSIError
from csi_driver.kube.errors import ApiNotFound

LOG = logging.getLogger(__name__)

_RETRY_SECONDS = 30.0


class AttachedColumn:
    """The volumes whose column may be wrong, and the thread that sets it right.

    ``_changed`` protects the set and wakes the thread.

    :param write: makes a volume's column what its connections say.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._changed = threading.Condition()
        self._volumes: set[str] = set()
        self._writing = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="attached column", daemon=True)
        self._thread.start()

    def update(self, volume_id: str) -> None:
        """A connection of this volume was made or removed."""
        with self._changed:
            self._volumes.add(volume_id)
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait until all is written; False when that takes longer."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._volumes and not self._writing, timeout=seconds
            )

    def close(self) -> None:
        """End; what waits is not written."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._volumes or self._closed)
                if self._closed:
                    return
                volume_id = self._volumes.pop()
                self._writing = True
            try:
                self._write(volume_id)
            except ApiNotFound:
                pass  # deleted meanwhile
            except CinderCSIError as error:
                LOG.info("The column of volume %s is written later: %s", volume_id, error)
                with self._changed:
                    self._volumes.add(volume_id)
                    self._changed.wait_for(lambda: self._closed, timeout=_RETRY_SECONDS)
            finally:
                with self._changed:
                    self._writing = False
                    self._changed.notify_all()
