"""The controller as one object: its use cases, what it finishes at start, how it drains."""

from __future__ import annotations

import logging

from csi_driver.controller import orphans
from csi_driver.controller.attachments import Attachments
from csi_driver.controller.context import ControllerContext
from csi_driver.controller.exports import Exports
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
        self.exports = Exports(context)
        self.pruning = Pruning(context)

    def start(self) -> None:
        """Export what is attached again, and begin to repair what an earlier process left.

        Called once, before any RPC is served.  A backend that does not answer delays
        only its own objects.
        """
        orphans.warn_of_all(self._context.store)
        self.exports.start()
        self.repair.start()
        self.pruning.start()

    def running(self) -> list[str]:
        """One sentence per operation that runs."""
        return self._context.inflight.describe()

    def drain(self, seconds: float) -> bool:
        """Start nothing new and wait for what runs; False when some still runs.

        What still runs is recorded: the next process takes it up.
        """
        self.exports.stop()
        self.repair.stop()
        self.pruning.stop()
        return self._context.inflight.close(seconds)

    def close(self) -> None:
        """Close pools and store; only after :meth:`drain`."""
        for backend in self._context.backends:
            backend.close()
        self._context.store.close()
