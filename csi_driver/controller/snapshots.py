"""Snapshots: create and delete.  Called by ``rpc.controller``."""

from __future__ import annotations

from concurrent.futures import Future

import msgspec

from csi_driver.base.inflight import Running
from csi_driver.base.turns import done
from csi_driver.cinderlib.persistence.records import Phase, SnapshotRecord, VolumeRecord
from csi_driver.controller import attempts, copies, errors, ids, parameters, pending
from csi_driver.controller.backends import (
    ControllerBackend,
)
from csi_driver.controller.context import ControllerContext
from csi_driver.controller.values import CreateSnapshot

KIND = "snapshot"


class Snapshots:
    """The use cases on snapshots."""

    def __init__(self, context: ControllerContext) -> None:
        self._context = context

    def create(self, request: CreateSnapshot) -> Future[SnapshotRecord]:
        """CSI CreateSnapshot; the cut is made when the future is done.

        :raises InvalidRequest: unknown parameter.
        :raises VolumeNotFound: the source does not exist.
        :raises IncompatibleExists: the name is a snapshot of another volume.
        :raises OperationInProgress: another operation runs on snapshot or volume.
        """
        context = self._context
        chosen = parameters.parse(request.parameters, parameters.SNAPSHOT_PARAMETERS)
        snapshot_id, incarnation = context.identify(KIND, request.name)
        existing = context.store.get(SnapshotRecord, snapshot_id)
        if existing is not None and existing.volume_id != request.volume_id:
            raise errors.IncompatibleExists(
                f"Snapshot {request.name!r} exists for volume {existing.volume_id}"
            )
        if existing is not None and existing.phase is Phase.AVAILABLE:
            return done(existing)
        volume = context.volume(request.volume_id)
        backend = context.backends.of_record(volume.backend)
        return context.inflight.start(
            snapshot_id,
            "CreateSnapshot",
            request.volume_id,
            lambda running: self._create(
                running, snapshot_id, incarnation, request, chosen, backend
            ),
            backend.work,
            holding=(request.volume_id,),
        )

    def _create(
        self,
        running: Running,
        snapshot_id: str,
        incarnation: int,
        request: CreateSnapshot,
        chosen: parameters.Parameters,
        backend: ControllerBackend,
    ) -> SnapshotRecord:
        context = self._context
        record = context.store.get(SnapshotRecord, snapshot_id)
        if record is not None and record.phase is Phase.AVAILABLE:
            return record
        if record is not None and record.phase is Phase.DELETING:
            raise pending.busy(record, advice="Retry when its deletion is finished")
        if record is not None and record.phase is not Phase.CREATING:
            raise pending.busy(record)  # it is there: another attempt would remove it
        volume = context.volume(request.volume_id)
        if volume.phase is not Phase.AVAILABLE:
            raise pending.busy(volume)
        source = copies.before_cut(context, volume)
        volume = source.volume
        if record is None:
            record = context.begin(
                SnapshotRecord(
                    id=snapshot_id,
                    name=request.name,
                    volume_id=volume.id,
                    backend=volume.backend,
                    phase=Phase.CREATING,
                    size_gib=volume.size_gib,
                    cinder_id=ids.new_cinder_id(),
                    created_at=context.clock(),
                    incarnation=incarnation,
                    description=chosen.description,
                    metadata=chosen.metadata,
                ),
                "snapshot",
            )
        else:
            record = attempts.next_attempt(context, record, "snapshot")
        record = msgspec.structs.replace(
            record, size_gib=volume.size_gib, created_at=context.clock()
        )
        made = attempts.make(
            context,
            running,
            record,
            "snapshot",
            lambda snapshot: backend.manager.create_snapshot(snapshot, volume),
            lambda snapshot: backend.manager.delete_snapshot(snapshot, volume),
            lambda snapshot: copies.after_cut(context, snapshot, source),
        )
        backend.forget_stats()
        return made

    def delete(self, snapshot_id: str) -> Future[None]:
        """CSI DeleteSnapshot; succeeds when there is no such snapshot.

        :raises OperationInProgress: another operation runs on the snapshot, for
            instance a volume is made from it.
        """
        context = self._context
        record = context.store.get(SnapshotRecord, snapshot_id)
        if record is None:
            return done(None)
        backend = context.backends.of_record(record.backend)
        return context.inflight.start(
            snapshot_id,
            "DeleteSnapshot",
            None,
            lambda running: self._delete(running, snapshot_id, backend),
            backend.work,
            holding=(record.volume_id,),
        )

    def _delete(self, running: Running, snapshot_id: str, backend: ControllerBackend) -> None:
        context = self._context
        record = context.store.get(SnapshotRecord, snapshot_id)
        if record is None:
            return
        volume = context.store.get(VolumeRecord, record.volume_id)
        if volume is None:
            raise errors.BackendRefused(
                f"The volume {record.volume_id} of snapshot {snapshot_id} has no record",
                advice="Restore the store from a backup that holds it",
            )

        reverting = volume.operation if volume.phase is Phase.REVERTING else None
        if reverting is not None and reverting.snapshot_id == snapshot_id:
            raise pending.busy(volume)

        def remove(snapshot: SnapshotRecord) -> None:
            backend.manager.delete_snapshot(snapshot, volume)

        attempts.unmake(context, running, record, "delete-snapshot", remove)
        backend.forget_stats()
