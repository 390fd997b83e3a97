"""The controller as one object: its use cases, what it finishes at start, how it drains."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from csi_driver.base.errors import CinderCSIError
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    Phase,
    SnapshotRecord,
    VolumeRecord,
)
from csi_driver.controller.attachments import Attachments
from csi_driver.controller.backends import DriverCallFailed, attempt
from csi_driver.controller.context import ControllerContext
from csi_driver.controller.listing import Listing
from csi_driver.controller.snapshots import Snapshots
from csi_driver.controller.volumes import Volumes

LOG = logging.getLogger("csi_driver.controller")


class ControllerService:
    """What ``rpc`` calls; made by ``cli``."""

    def __init__(self, context: ControllerContext) -> None:
        self._context = context
        self.volumes = Volumes(context)
        self.snapshots = Snapshots(context)
        self.attachments = Attachments(context)
        self.listing = Listing(context)

    def resume(self) -> list[Future[None]]:
        """Finish what an earlier process left: exports, deletions and detaches.

        Called once, before any RPC is served.  Creations and attaches that were
        left are taken up by the caller's retry; deletions have nobody who must
        retry them.  A backend that does not answer delays nothing: its work
        fails, is logged and is retried by the next caller.
        """
        store = self._context.store
        self._ensure_exports()
        futures: list[Future[None]] = []
        for connection in store.list(ConnectionRecord, where={"phase": Phase.DETACHING}):
            futures += self._begin(
                self.attachments.unpublish, connection.volume_id, connection.node_id
            )
        for snapshot in store.list(SnapshotRecord, where={"phase": Phase.DELETING}):
            futures += self._begin(lambda i: [self.snapshots.delete(i)], snapshot.id)
        for volume in store.list(VolumeRecord, where={"phase": Phase.DELETING}):
            futures += self._begin(lambda i: [self.volumes.delete(i)], volume.id)
        return futures

    def _begin(self, start: Callable[..., list[Future[None]]], *ids: str) -> list[Future[None]]:
        try:
            futures = start(*ids)
        except CinderCSIError as error:
            LOG.warning("Left work could not be taken up: %s", error)
            return []
        for future in futures:
            future.add_done_callback(_log_outcome)
        return futures

    def _ensure_exports(self) -> None:
        """Cinder's manager does the same at start (``VolumeManager.init_host``)."""
        store = self._context.store
        attached = {c.volume_id for c in store.list(ConnectionRecord, where={"phase": "attached"})}
        for volume_id in sorted(attached):
            volume = store.get(VolumeRecord, volume_id)
            if volume is None:
                continue
            try:
                manager = self._context.backends.of_record(volume.backend).manager
                changed = attempt("ensure_export", partial(manager.ensure_export, volume))
            except (CinderCSIError, DriverCallFailed) as error:
                LOG.warning("The export of volume %s was not checked: %s", volume_id, error)
                continue
            if changed != volume:
                store.put(changed)

    def running(self) -> list[str]:
        """One sentence per operation that runs."""
        return self._context.inflight.describe()

    def drain(self, seconds: float) -> bool:
        """Start nothing new and wait for what runs; False when some still runs.

        What still runs is recorded: the next process takes it up.
        """
        return self._context.inflight.close(seconds)

    def close(self) -> None:
        """Close pools and store; only after :meth:`drain`."""
        for backend in self._context.backends:
            backend.close()
        self._context.store.close()


def _log_outcome(future: Future[None]) -> None:
    error = future.exception()
    if error is not None:
        LOG.warning("Left work was not finished: %s", error)
