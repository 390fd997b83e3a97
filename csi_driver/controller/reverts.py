"""Putting a volume back to its youngest snapshot.

CSI has no call for it; ``cinder-csi revert`` asks for it, through ``rpc.administration``.
While it runs, and after a crash until it was done again, the volume is in phase *reverting*:
nothing may be published, copied or extended whose bytes may be half of one time and half of
another.
"""

from __future__ import annotations

from concurrent.futures import Future

from csi_driver.base.inflight import Running
from csi_driver.cinderlib.persistence.records import Phase, SnapshotRecord, VolumeRecord
from csi_driver.controller import errors, late, pending
from csi_driver.controller.backends import (
    ControllerBackend,
    DriverCallFailed,
    as_error,
    attempt,
)
from csi_driver.controller.context import ControllerContext

OPERATION = "revert"
_RESUME = "completion of an unfinished revert"


class Reverts:
    """The use case of reverting a volume."""

    def __init__(self, context: ControllerContext) -> None:
        self._context = context

    def revert(self, volume_id: str, snapshot_id: str) -> Future[None]:
        """Put the volume back to what it held when the snapshot was made.

        :raises VolumeNotFound: there is no such volume.
        :raises SnapshotNotFound: there is no such snapshot of it.
        :raises VolumeInUse: the volume is published, or has a younger snapshot.
        :raises OperationInProgress: another operation runs on volume or snapshot.
        """
        return self._start(volume_id, snapshot_id, OPERATION)

    def resume(self, volume_id: str, snapshot_id: str) -> Future[None]:
        """Finish a revert that nobody runs any more.

        Somebody may have finished it since, and the volume may hold new data: then
        nothing is done.  For that reason no :meth:`revert` joins this call.

        :raises CinderCSIError: as :meth:`revert`.
        """
        return self._start(volume_id, snapshot_id, _RESUME)

    def _start(self, volume_id: str, snapshot_id: str, kind: str) -> Future[None]:
        context = self._context
        volume = context.volume(volume_id)
        self._snapshot(volume, snapshot_id)
        backend = context.backends.of_record(volume.backend)
        return context.inflight.start(
            volume_id,
            kind,
            snapshot_id,
            lambda running: self._revert(running, volume_id, snapshot_id, backend),
            backend.work,
            holding=(snapshot_id,),
        )

    def _snapshot(self, volume: VolumeRecord, snapshot_id: str) -> SnapshotRecord:
        found = self._context.store.get(SnapshotRecord, snapshot_id)
        if found is None or found.volume_id != volume.id or found.phase is not Phase.AVAILABLE:
            raise errors.SnapshotNotFound(
                f"Volume {volume.id} has no finished snapshot {snapshot_id!r}"
            )
        return found

    def _refuse_younger(self, snapshot: SnapshotRecord) -> None:
        """Refuse all but the youngest snapshot, as Cinder does.

        Drivers rely on it: some fail in the midst of it, and some arrays destroy the younger.
        """
        every = self._context.store.list(SnapshotRecord, where={"volume_id": snapshot.volume_id})
        younger = [f"{s.name} ({s.id})" for s in every if s.created_at > snapshot.created_at]
        if younger:
            raise errors.VolumeInUse(
                f"Volume {snapshot.volume_id} has younger snapshots: {', '.join(younger)}",
                advice="Delete them first, or make a new volume from the snapshot",
            )

    def _revert(
        self, running: Running, volume_id: str, snapshot_id: str, backend: ControllerBackend
    ) -> None:
        context = self._context
        volume = context.volume(volume_id)
        if running.kind == _RESUME and volume.phase is not Phase.REVERTING:
            return
        snapshot = self._snapshot(volume, snapshot_id)
        if volume.phase not in (Phase.AVAILABLE, Phase.REVERTING):
            raise pending.busy(volume)
        begun = volume.operation
        if begun is not None and (begun.kind, begun.snapshot_id) != (OPERATION, snapshot_id):
            raise pending.busy(volume)
        if volume.phase is Phase.AVAILABLE:
            self._refuse_younger(snapshot)
        late.refuse_while_reverting(context, volume)
        nodes = [connection.node_id for connection in context.connections(volume_id)]
        if nodes:
            raise errors.VolumeInUse(
                f"Volume {volume_id} is published to {', '.join(nodes)}",
                advice="Stop its workload, and unpublish it first",
            )
        unfinished = volume.phase is Phase.REVERTING
        volume = context.write(
            volume, OPERATION, "backend", phase=Phase.REVERTING, snapshot_id=snapshot_id
        )
        running.at("backend revert")
        try:
            reverted = attempt(
                f"Reverting {volume.name!r} to {snapshot.name!r}",
                lambda: backend.manager.revert_to_snapshot(volume, snapshot),
            )
        except DriverCallFailed as failed:
            # With another size no attempt has called the driver, this one nor an earlier.
            called = volume.size_gib == snapshot.size_gib
            if called and (unfinished or failed.failure.may_have_effect):
                context.note(volume, failed.failure.message)
            else:
                context.write(volume, OPERATION, "undone", phase=Phase.AVAILABLE)
            raise as_error(failed) from failed
        running.at("recording")
        # What nodes confirmed since the cut is not true any more; the snapshot knows.
        context.nodes.forget(volume_id)
        context.write(
            reverted,
            OPERATION,
            "available",
            phase=Phase.AVAILABLE,
            formatting=snapshot.formatting,
        )
