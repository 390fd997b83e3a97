"""The controller as one object: its use cases, what it finishes at start, how it drains."""

from __future__ import annotations

import logging
from functools import partial

from csi_driver.base.errors import CinderCSIError
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

    def ensure_exports(self) -> None:
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
        self.repair.stop()
        self.pruning.stop()
        return self._context.inflight.close(seconds)

    def close(self) -> None:
        """Close pools and store; only after :meth:`drain`."""
        for backend in self._context.backends:
            backend.close()
        self._context.store.close()
