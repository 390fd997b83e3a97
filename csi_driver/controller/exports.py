"""Exports at the start every volume that is attached, as Cinder's manager does.

Started by :class:`~csi_driver.controller.service.ControllerService`.  Thousands of volumes
may be attached: of each backend a few at a time are exported, and what is asked
meanwhile comes before the others.  (Cinder: ``VolumeManager.init_host``.)
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict, deque
from concurrent.futures import Future

from csi_driver.base.errors import CinderCSIError
from csi_driver.cinderlib.manager import VolumeManager
from csi_driver.cinderlib.persistence.records import ConnectionRecord, Phase, VolumeRecord
from csi_driver.controller.backends import (
    ATTACH_THREADS,
    ControllerBackend,
    DriverCallFailed,
    attempt,
)
from csi_driver.controller.context import ControllerContext

LOG = logging.getLogger("csi_driver.controller")

AT_ONCE = ATTACH_THREADS // 2
"""Exports of one backend at a time: the other turns are for attaches."""


class Exports:
    """What is to be exported.  Its thread reads records; backends' attach pools do the work."""

    def __init__(self, context: ControllerContext) -> None:
        self._context = context
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="exports", daemon=True)

    def start(self) -> None:
        """Begin, beside the RPCs: reading thousands of records takes a while."""
        self._thread.start()

    def stop(self) -> None:
        """Begin no further export."""
        self._stopping.set()

    def begin(self) -> list[Future[None]]:
        """Begin to export what is attached; futures that are done when all of it was tried.

        A backend that hangs holds up its own volumes only, and half of its attaches.

        :raises StoreUnavailable: the records cannot be read.
        """
        attached = self._context.store.list(ConnectionRecord, where={"phase": Phase.ATTACHED})
        left: dict[str, deque[str]] = defaultdict(deque)
        for name, volume_id in sorted({(each.backend, each.volume_id) for each in attached}):
            left[name].append(volume_id)
        futures = []
        for name, volumes in left.items():
            try:
                backend = self._context.backends.of_record(name)
            except CinderCSIError as error:
                LOG.warning("The exports of %d volumes are not checked: %s", len(volumes), error)
                continue
            for _ in range(min(AT_ONCE, len(volumes))):
                ended: Future[None] = Future()
                backend.attach.submit(self._next, backend, volumes, ended)
                futures.append(ended)
        return futures

    def _run(self) -> None:
        try:
            self.begin()
        except CinderCSIError as error:
            LOG.warning("What is attached is not exported again: %s", error)
        except Exception:  # a defect
            LOG.exception("What is attached is not exported again")

    def _next(self, backend: ControllerBackend, volumes: deque[str], ended: Future[None]) -> None:
        """Export one volume, then line up behind who came meanwhile."""
        if self._stopping.is_set() or not volumes:
            ended.set_result(None)
            return
        try:
            self._export(volumes.popleft(), backend.manager)
        except IndexError:  # another took the last one
            pass
        except Exception:  # a defect; the others are exported all the same
            LOG.exception("A volume was not exported again")
        backend.attach.submit(self._next, backend, volumes, ended)

    def _export(self, volume_id: str, manager: VolumeManager) -> None:
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
