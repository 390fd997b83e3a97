"""The controller as one object: its use cases, what it finishes at start, how it drains."""

from __future__ import annotations

import logging
from concurrent.futures import Future

from csi_driver.base.errors import CinderCSIError
from csi_driver.cinderlib.manager import VolumeManager
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    VolumeRecord,
)
from csi_driver.controller import orphans
from csi_driver.controller.attachments import Attachments
from csi_driver.controller.backends import DriverCallFailed, attempt
from csi_driver.controller.context import ControllerContext
from csi_driver.controller.listing import Listing
from csi_driver.controller.pruning import Pruning
from csi_driver.controller.repair import Repair
from csi_driver.controller.reverts import Reverts
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
        self.reverts = Reverts(context)
        self.listing = Listing(context)
        self.repair = Repair(context, self.volumes, self.snapshots, self.attachments, self.reverts)
        self.pruning = Pruning(context)

    def start(self) -> None:
        """Export what is attached again, and begin to repair what an earlier process left.

        Called once, before any RPC is served.  A backend that does not answer delays
        only its own objects.
        """
        orphans.warn_of_all(self._context.store)
        self.ensure_exports()
        self.repair.start()
        self.pruning.start()

    def ensure_exports(self) -> list[Future[None]]:
        """Export every attached volume again, as Cinder's manager does at start.

        On the backends' attach pools: one that hangs holds up only its own attaches.
        (Cinder: ``VolumeManager.init_host``.)
        """
        store = self._context.store
        attached = {c.volume_id for c in store.list(ConnectionRecord, where={"phase": "attached"})}
        futures = []
        for volume_id in sorted(attached):
            volume = store.get(VolumeRecord, volume_id)
            if volume is None:
                continue
            try:
                backend = self._context.backends.of_record(volume.backend)
            except CinderCSIError as error:
                LOG.warning("The export of volume %s is not checked: %s", volume_id, error)
                continue
            futures.append(backend.attach.submit(self._ensure_export, volume_id, backend.manager))
        return futures

    def _ensure_export(self, volume_id: str, manager: VolumeManager) -> None:
        """Export one volume again, unless it was detached meanwhile."""
        context = self._context
        with context.attachments.holding(volume_id):
            volume = context.store.get(VolumeRecord, volume_id)
            if volume is None or not context.connections(volume_id):
                return
            try:
                changed = attempt("ensure_export", lambda: manager.ensure_export(volume))
                if changed != volume:
                    context.store.put(changed)
            except (CinderCSIError, DriverCallFailed) as error:
                LOG.warning("The export of volume %s was not made again: %s", volume_id, error)

    def running(self) -> list[str]:
        """One sentence per operation that runs."""
        return self._context.inflight.describe()

    def drain(self, seconds: float) -> bool:
        """Start nothing new and wait for what runs; False when some still runs.

        What still runs is recorded: the next process takes it up.
        """
        self.repair.stop()
        self.pruning.stop()
        return self._context.inflight.close(seconds)

    def close(self) -> None:
        """Close pools and store; only after :meth:`drain`."""
        for backend in self._context.backends:
            backend.close()
        self._context.store.close()
