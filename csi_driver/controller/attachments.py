"""Attachments: ControllerPublishVolume and ControllerUnpublishVolume.

A publication is a connection record with the sealed publish_context, so that a
retry answers the same bytes.  Connections of one volume take turns (the lock of
:class:`~csi_driver.controller.context.KeyedLocks`): exports are made with the
first and removed after the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

import msgspec

from csi_driver.base.inflight import Running
from csi_driver.base.publish_context import PublishContextTooLarge, seal
from csi_driver.base.turns import done
from csi_driver.base.values import (
    GIB,
    AccessMode,
    NodeRegistration,
    PublishContext,
    VolumeCapability,
)
from csi_driver.cinderlib.failures import FailureKind
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    LateAttemptRecord,
    Phase,
    VolumeRecord,
)
from csi_driver.controller import capabilities, errors, ids, late, pending
from csi_driver.controller.backends import (
    ControllerBackend,
    DriverCallFailed,
    as_error,
    attempt,
)
from csi_driver.controller.context import ControllerContext
from csi_driver.controller.values import PublishVolume

_UNPUBLISH = "ControllerUnpublishVolume"
_RESUME = "removal of an unfinished attachment"


class Attachments:
    """The use cases on connections of volumes to nodes."""

    def __init__(self, context: ControllerContext) -> None:
        self._context = context

    # -- publish --------------------------------------------------------------

    def publish(self, request: PublishVolume) -> Future[dict[str, str]]:
        """CSI ControllerPublishVolume; the result is the sealed publish_context.

        :raises VolumeNotFound: there is no such volume.
        :raises NodeNotFound: the node never registered.
        :raises OperationInProgress: another operation runs on the volume.
        """
        volume = self._context.volume(request.volume_id)
        self._node(request.node_id)
        backend = self._context.backends.of_record(volume.backend)
        capabilities.require((request.capability,), multiattach=True)
        return self._context.inflight.start(
            ids.connection_id(request.volume_id, request.node_id),
            "ControllerPublishVolume",
            msgspec.json.encode(_asked(request)),
            lambda running: self._publish(running, request, backend),
            backend.attach,
            holding=(request.volume_id,),
        )

    def _node(self, node_id: str) -> NodeRegistration:
        node = self._context.nodes.node(node_id)
        if node is None:
            raise errors.NodeNotFound(f"Node {node_id!r} is not registered")
        return node

    def _publish(
        self, running: Running, request: PublishVolume, backend: ControllerBackend
    ) -> dict[str, str]:
        context = self._context
        multiattach = backend.planning_stats().multiattach
        capabilities.require((request.capability,), multiattach=multiattach)
        running.at("waiting for other connections of the volume")
        with context.attachments.holding(request.volume_id):
            volume = context.volume(request.volume_id)
            late.refuse_while_reverting(context, volume)
            if volume.phase is not Phase.AVAILABLE:
                raise pending.busy(volume)
            node = self._node(request.node_id)
            connections = context.connections(volume.id)
            mine = find_mine(request, connections)
            others = [c for c in connections if mine is None or c.id != mine.id]
            if mine is not None and mine.phase is Phase.ATTACHED:
                return dict(mine.publish_context)
            refuse_second_node(request, others)
            late.refuse_publish(context, volume, connections)
            if mine is None:
                self._refuse_over_limit(node)
            elif mine.connector != node.connector:
                # The backend may know the host by the connector that the record still has.
                reason = f"Node {node.node_id} has another connector than when it was attached"
                self._undo(volume, mine, others, backend, reason)
            volume = context.with_confirmation(volume)
            record = self._intend(request, volume, node, mine)
            running.at("backend attach")
            return self._connect(volume, record, others, backend, again=mine is not None)

    def _refuse_over_limit(self, node: NodeRegistration) -> None:
        if not node.max_volumes:
            return
        used = self._context.store.list(
            ConnectionRecord, where={"node_id": node.node_id}, limit=node.max_volumes
        )
        if len(used) >= node.max_volumes:
            raise errors.AttachLimitReached(
                f"Node {node.node_id} has {len(used)} volumes, its limit is {node.max_volumes}"
            )

    def _intend(
        self,
        request: PublishVolume,
        volume: VolumeRecord,
        node: NodeRegistration,
        mine: ConnectionRecord | None,
    ) -> ConnectionRecord:
        context = self._context
        record = mine or ConnectionRecord(
            id=ids.connection_id(volume.id, node.node_id),
            volume_id=volume.id,
            node_id=node.node_id,
            backend=volume.backend,
            phase=Phase.ATTACHING,
            cinder_id=ids.new_cinder_id(),
            created_at=context.clock(),
        )
        writes = capabilities.writes(request.capability.mode, request.readonly)
        return context.write(
            record,
            "publish",
            "backend",
            phase=Phase.ATTACHING,
            connector=node.connector,
            attach_mode="rw" if writes else "ro",
            attached_host=str(node.connector.get("host", "")),
            request=_asked(request),
        )

    def _connect(
        self,
        volume: VolumeRecord,
        record: ConnectionRecord,
        others: Sequence[ConnectionRecord],
        backend: ControllerBackend,
        *,
        again: bool,
    ) -> dict[str, str]:
        """Attach; ``again``: after an attempt that may have had effect, as this one may."""
        context = self._context
        try:
            changed, connected = attempt(
                f"Attaching {volume.name!r} to {record.node_id}",
                lambda: backend.manager.connect(volume, record, others),
            )
        except DriverCallFailed as failed:
            if again or failed.failure.may_have_effect:
                self._undo(volume, record, others, backend, str(failed))
            context.erase(record, "publish", "undone")
            raise as_error(failed) from failed
        if changed != volume:
            volume = context.update(changed, "publish", "exported")
        try:
            sealed = self._seal(volume, connected)
        except PublishContextTooLarge as error:
            self._undo(volume, record, others, backend, error.message)
            context.erase(record, "publish", "undone")
            raise
        # The connection info may hold credentials: only its sealed form is kept.
        context.write(
            connected,
            "publish",
            "attached",
            phase=Phase.ATTACHED,
            connection_info={},
            publish_context=sealed,
        )
        return sealed

    def _seal(self, volume: VolumeRecord, connected: ConnectionRecord) -> dict[str, str]:
        return seal(
            PublishContext(
                volume_id=volume.id,
                node_id=connected.node_id,
                connection=connected.connection_info,
                size_bytes=volume.size_gib * GIB,
                formatting=volume.formatting,
                readonly=connected.attach_mode == "ro",
                identity=volume.identity,
            ),
            self._context.keys(),
            self._context.driver_name,
        )

    def _undo(
        self,
        volume: VolumeRecord,
        record: ConnectionRecord,
        others: Sequence[ConnectionRecord],
        backend: ControllerBackend,
        reason: str,
    ) -> None:
        """Take an attach back; ``reason`` says what went wrong with it.

        :raises OutcomeUnknown: the backend would not; the record stays.
        """
        try:
            attempt("Undo", lambda: backend.manager.disconnect(volume, record, others))
        except DriverCallFailed as again:
            self._context.note(record, reason)
            raise pending.unsettled(
                record, f"{reason}; it could not be undone yet: {again.failure.message}"
            ) from again

    # -- unpublish ------------------------------------------------------------

    def unpublish(self, volume_id: str, node_id: str) -> list[Future[None]]:
        """CSI ControllerUnpublishVolume; a future per connection to remove.

        :param node_id: '' means every node.  What is not published succeeds: the
            store is proved to be this installation's when the process starts.
        :raises OperationInProgress: another operation runs on the connection.
        """
        context = self._context
        # A publish that waits for its thread has no record yet: look for it first.
        publishing = [ids.connection_id(volume_id, node_id)]
        if not node_id:
            publishing = [key for key in context.inflight.busy() if key.startswith(publishing[0])]
        for key in publishing:
            context.inflight.refuse_other(key, _UNPUBLISH)
        if node_id:
            one = context.store.get(ConnectionRecord, ids.connection_id(volume_id, node_id))
            found = [one] if one else []
        else:
            found = context.connections(volume_id)
        return [self._start_unpublish(record, _UNPUBLISH) for record in found] or [done(None)]

    def resume(self, record: ConnectionRecord) -> Future[None]:
        """Remove a connection whose publish or unpublish nobody runs any more.

        A caller may have finished it since ``record`` was read: then nothing is done.
        For that reason no ControllerUnpublishVolume joins this call.

        :raises OperationInProgress: another operation runs on the connection.
        """
        return self._start_unpublish(record, _RESUME)

    def _start_unpublish(self, record: ConnectionRecord, kind: str) -> Future[None]:
        backend = self._context.backends.of_record(record.backend)
        return self._context.inflight.start(
            record.id,
            kind,
            None,
            lambda running: self._unpublish(running, record.volume_id, record.id, backend),
            backend.detach,
            holding=(record.volume_id,),
        )

    def _unpublish(
        self, running: Running, volume_id: str, connection_id: str, backend: ControllerBackend
    ) -> None:
        context = self._context
        running.at("waiting for other connections of the volume")
        with context.attachments.holding(volume_id):
            record = context.store.get(ConnectionRecord, connection_id)
            if record is None or (running.kind == _RESUME and record.operation is None):
                return
            # What the node proved is taken over while it still has the volume: from then on
            # its word about the volume does not count.
            volume = context.with_confirmation(context.volume(volume_id))
            others = [c for c in context.connections(volume_id) if c.id != connection_id]
            late.expect(context, record)
            record = context.write(record, "unpublish", "backend", phase=Phase.DETACHING)
            running.at("backend detach")
            try:
                changed = attempt(
                    f"Detaching {volume.name!r} from {record.node_id}",
                    lambda: backend.manager.disconnect(volume, record, others),
                )
            except DriverCallFailed as failed:
                if failed.failure.kind is not FailureKind.NOT_FOUND:
                    context.note(record, failed.failure.message)
                    raise pending.unsettled(
                        record,
                        f"{failed.action} failed: {failed.failure.message}",
                        advice="The export is still there; retry",
                    ) from failed
                changed = volume
            if changed != volume:
                context.update(changed, "unpublish", "unexported")
            context.erase(record, "unpublish", "gone")

    # -- what another process may still do ----------------------------------------

    def settle(self, expected: LateAttemptRecord) -> Future[None]:
        """Remove the connection that an attach or detach of another process may have left.

        :raises OperationInProgress: another operation runs on the volume.
        """
        backend = self._context.backends.of_record(expected.backend)
        return self._context.inflight.start(
            expected.id,
            "removal of a late attachment",
            None,
            lambda running: self._settle(expected.id, expected.csi_id, backend),
            backend.detach,
            holding=(expected.csi_id,),
        )

    def _settle(self, late_id: str, volume_id: str, backend: ControllerBackend) -> None:
        context = self._context
        with context.attachments.holding(volume_id):
            expected = context.store.get(LateAttemptRecord, late_id)
            if expected is None:
                return
            connection = msgspec.convert(expected.objects["connection"], ConnectionRecord)
            volume = context.store.get(VolumeRecord, volume_id)
            others = context.connections(volume_id)
            again = any(other.id == connection.id for other in others)
            # One that was published again is removed when it is unpublished.  A detach may have
            # been the redoing of one that undid an attach: then that may have come last.
            if volume is not None and not again:
                self._disconnect_late(expected, volume, connection, others, backend)
            late.forget(context, expected)

    def _disconnect_late(
        self,
        expected: LateAttemptRecord,
        volume: VolumeRecord,
        connection: ConnectionRecord,
        others: Sequence[ConnectionRecord],
        backend: ControllerBackend,
    ) -> None:
        try:
            changed = attempt(
                f"Detaching {volume.name!r} from {connection.node_id} again",
                lambda: backend.manager.disconnect(volume, connection, others),
            )
        except DriverCallFailed as failed:
            if failed.failure.kind is not FailureKind.NOT_FOUND:
                late.look_later(self._context, expected, failed.failure.message)
                raise
            changed = volume
        if changed != volume:
            self._context.update(changed, "unpublish", "unexported")


def find_mine(
    request: PublishVolume, connections: Sequence[ConnectionRecord]
) -> ConnectionRecord | None:
    """The connection to the request's node, if it is compatible with the request.  Pure.

    :raises PublishedIncompatible: published there with other arguments.
    """
    for connection in connections:
        if connection.node_id == request.node_id:
            if connection.phase is Phase.ATTACHED and connection.request != _asked(request):
                raise errors.PublishedIncompatible(
                    f"Volume {request.volume_id} is published to {request.node_id} with another"
                    " capability or readonly flag"
                )
            return connection
    return None


def refuse_second_node(request: PublishVolume, others: Sequence[ConnectionRecord]) -> None:
    """Refuse another node when an access mode allows only one, or only one writer.  Pure.

    :raises PublishedElsewhere: names the node that has the volume.
    """
    if not others:
        return
    nodes = ", ".join(sorted(connection.node_id for connection in others))
    mode = request.capability.mode
    single = [c.node_id for c in others if not _mode(c).startswith("MULTI_NODE")]
    if not mode.multi_node or single:
        raise errors.PublishedElsewhere(
            f"Volume {request.volume_id} is published to {nodes}"
            f" and {mode} allows no second node there"
        )
    writers = [c for c in others if c.attach_mode == "rw"]
    # Whoever asked for the single writer, the first or the second, has the word.
    modes = {str(mode), *map(_mode, writers)}
    if (
        writers
        and capabilities.writes(mode, request.readonly)
        and AccessMode.MULTI_NODE_SINGLE_WRITER in modes
    ):
        names = ", ".join(connection.node_id for connection in writers)
        raise errors.PublishedElsewhere(
            f"Volume {request.volume_id} is published for writing to {names}",
            advice="Publish it readonly, or unpublish it there first",
        )


def _mode(connection: ConnectionRecord) -> str:
    return str(connection.request.get("mode", ""))


def _asked(request: PublishVolume) -> dict[str, object]:
    capability: VolumeCapability = request.capability
    return {
        "access_type": str(capability.access_type),
        "mode": str(capability.mode),
        "fs_type": capability.fs_type,
        "readonly": request.readonly,
    }
