"""Removes old tombstones in a loop, so that the store does not grow with every deleted name.

Started by :class:`~csi_driver.controller.service.ControllerService`.  A thread of its
own: thousands of removals must not delay the repair of what is pending.
"""

from __future__ import annotations

import logging
import threading

from csi_driver.base.errors import CinderCSIError
from csi_driver.controller import names
from csi_driver.controller.context import ControllerContext

LOG = logging.getLogger("csi_driver.controller")

KEEP_SECONDS = 24 * 3600.0
"""Age at which a tombstone goes.

Any age would be safe (see :mod:`~csi_driver.controller.names`).  A day lets people who
look into a deletion still see it, and keeps what is read at every look small.
"""

INTERVAL_SECONDS = 600.0
"""How often the loop looks for old tombstones."""


class Pruning:
    """The loop."""

    def __init__(self, context: ControllerContext) -> None:
        self._context = context
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="pruning", daemon=True)

    def start(self) -> None:
        """Begin the loop."""
        self._thread.start()

    def stop(self) -> None:
        """End the loop; a round that runs ends when the store is closed."""
        self._stopping.set()

    def _loop(self) -> None:
        while not self._stopping.is_set():
            try:
                self.round()
            except CinderCSIError as error:
                LOG.warning("Old tombstones could not be removed: %s", error)
            except Exception:  # a defect; the next round may find what this one did not
                LOG.exception("Old tombstones could not be removed")
            self._stopping.wait(INTERVAL_SECONDS)

    def round(self) -> int:
        """Remove what is old enough; how many tombstones that were.

        :raises StoreUnavailable: they cannot be read or removed.
        """
        pruned = names.prune(self._context.store, self._context.clock() - KEEP_SECONDS)
        if pruned:
            LOG.info("%d tombstones were older than %g hours", pruned, KEEP_SECONDS / 3600)
        return pruned
