"""Volumes: create, delete, expand.  Called by ``rpc.controller``.

Each call plans on the stored record, writes the intent, calls the driver on the
backend's own pool and writes the outcome.  The futures that are returned outlive
the RPC that waits for them; a retry joins the running call.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import msgspec

from csi_driver.base.errors import CinderCSIError, InvalidRequest
from csi_driver.base.inflight import Running
from csi_driver.base.turns import done
from csi_driver.base.values import GIB, Topology
from csi_driver.cinderlib.failures import FailureKind
from csi_driver.cinderlib.persistence.records import (
    Phase,
    SnapshotRecord,
    Source,
    VolumeRecord,
)
from csi_driver.controller import (
    attempts,
    capabilities,
    capacity,
    copies,
    errors,
    ids,
    late,
    parameters,
    pending,
    pools,
)
from csi_driver.controller.backends import (
    ControllerBackend,
    DriverCallFailed,
    as_error,
    attempt,
)
from csi_driver.controller.context import ControllerContext
from csi_driver.controller.sources import find_source, pool_of, source_ids
from csi_driver.controller.values import CreateVolume, ExpandVolume, VolumeAnswer

KIND = "volume"


class Volumes:
    """The use cases on volumes."""

    def __init__(self, context: ControllerContext) -> None:
        self._context = context

    # -- create ---------------------------------------------------------------

    def create(self, request: CreateVolume) -> Future[VolumeAnswer]:
        """CSI CreateVolume.

        :raises InvalidRequest: unknown parameter or backend, unusable capability.
        :raises CapacityOutOfRange: no whole GiB in the range.
        :raises OperationInProgress: another operation runs on the volume or source.
        """
        capacity.check_range(request.required_bytes, request.limit_bytes)
        chosen = parameters.parse(request.parameters, parameters.VOLUME_PARAMETERS)
        volume_id, incarnation = self._context.identify(KIND, request.name)
        backend = self._backend_for(request, chosen, volume_id)
        # Whether it can be attached to several hosts is for the backend to say, later.
        capabilities.require(request.capabilities, multiattach=True)
        wish = wished(request, chosen)
        return self._context.inflight.start(
            volume_id,
            "CreateVolume",
            # Deterministic: maps come in any order over the wire.
            msgspec.json.encode(
                (wish, request.required_bytes, request.limit_bytes), order="deterministic"
            ),
            lambda running: self._create(
                running, volume_id, incarnation, request, chosen, backend, wish
            ),
            backend.work,
            holding=source_ids(request.source),
        )

    def _backend_for(
        self, request: CreateVolume, chosen: parameters.Parameters, volume_id: str
    ) -> ControllerBackend:
        if request.source is None:
            return self._context.backends.named(chosen.backend)
        begun = self._context.store.get(VolumeRecord, volume_id)
        if begun is not None:
            # Its source may be gone since; the volume, or what was begun of it, is not.
            return self._context.backends.of_record(begun.backend)
        home = find_source(self._context, request.source).backend
        if chosen.backend and chosen.backend != home:
            raise InvalidRequest(
                f"The source lives on backend {home!r}, the class asks for {chosen.backend!r}",
                advice="Use a class of the source's backend",
            )
        return self._context.backends.of_record(home)

    def _create(
        self,
        running: Running,
        volume_id: str,
        incarnation: int,
        request: CreateVolume,
        chosen: parameters.Parameters,
        backend: ControllerBackend,
        wish: dict[str, Any],
    ) -> VolumeAnswer:
        context = self._context
        record = context.store.get(VolumeRecord, volume_id)
        if record is not None:
            refuse_if_different(record, request, wish)
            if record.phase is Phase.AVAILABLE:
                return answer(context, record)
            if record.phase is Phase.DELETING:
                raise pending.busy(record, advice="Retry when its deletion is finished")
            if record.phase is not Phase.CREATING:
                raise pending.busy(record)  # it is there: another attempt would remove it
        kind = making(request.source)
        try:
            source, size, pool = self._plan(request, chosen, backend)
        except CinderCSIError:
            if record is not None:
                # The caller may stop here and use the name for something else.
                attempts.abandon(context, running, record, kind, backend.manager.delete_volume)
            raise
        cut = None
        if isinstance(source, VolumeRecord):
            cut = copies.before_cut(context, source)
            source = cut.volume
        if record is None:
            record = context.begin(
                VolumeRecord(
                    id=volume_id,
                    name=request.name,
                    backend=backend.name,
                    pool=pool,
                    phase=Phase.CREATING,
                    size_gib=size,
                    cinder_id=ids.new_cinder_id(),
                    created_at=context.clock(),
                    incarnation=incarnation,
                    description=chosen.description,
                    metadata=chosen.metadata,
                    source=request.source,
                    request=wish,
                    multiattach=capabilities.wants_multiattach(request.capabilities),
                ),
                kind,
            )
        else:
            # Its source may have grown since.
            begun = msgspec.structs.replace(record, size_gib=size)
            record = attempts.next_attempt(context, begun, kind)
        held = source.formatting if source else copies.new_formatting(record.id)
        record = msgspec.structs.replace(record, formatting=held)
        made = attempts.make(
            context,
            running,
            record,
            kind,
            lambda volume: backend.manager.create_volume(volume, source),
            backend.manager.delete_volume,
            lambda made: made if cut is None else copies.after_cut(context, made, cut),
        )
        backend.forget_stats()
        return answer(context, made)

    def _plan(
        self, request: CreateVolume, chosen: parameters.Parameters, backend: ControllerBackend
    ) -> tuple[VolumeRecord | SnapshotRecord | None, int, str]:
        """The source of a new volume, its size in GiB, and its pool.

        :raises TopologyUnreachable, SourceNotFound, CapacityOutOfRange: it cannot be made.
        :raises InvalidRequest: no such pool, or a capability that the backend does not have.
        """
        if request.requisite:
            refuse_unreachable(request.requisite, backend.accessible_from(), backend.name)
        stats = backend.planning_stats()
        capabilities.require(request.capabilities, multiattach=stats.multiattach)
        source = find_source(self._context, request.source) if request.source else None
        least = source.size_gib if source else 0
        size = capacity.size_for(request.required_bytes, request.limit_bytes, least)
        wanted = chosen.pool or pool_of(self._context, source)
        return source, size, pools.choose(stats, size, wanted)

    # -- delete ---------------------------------------------------------------

    def delete(self, volume_id: str) -> Future[None]:
        """CSI DeleteVolume; succeeds when there is no such volume.

        :raises OperationInProgress: another operation runs on the volume.
        """
        context = self._context
        record = context.store.get(VolumeRecord, volume_id)
        if record is None:
            return done(None)
        backend = context.backends.of_record(record.backend)
        return context.inflight.start(
            volume_id,
            "DeleteVolume",
            None,
            lambda running: self._delete(running, volume_id, backend),
            backend.work,
        )

    def _delete(self, running: Running, volume_id: str, backend: ControllerBackend) -> None:
        context = self._context
        record = context.store.get(VolumeRecord, volume_id)
        if record is None:
            return
        self._refuse_in_use(record)
        attempts.unmake(context, running, record, "delete", backend.manager.delete_volume)
        backend.forget_stats()

    def _refuse_in_use(self, record: VolumeRecord) -> None:
        nodes = [connection.node_id for connection in self._context.connections(record.id)]
        if nodes:
            raise errors.VolumeInUse(
                f"Volume {record.id} is published to {', '.join(nodes)}",
                advice="Unpublish it first",
            )
        dependents = self._context.store.list(
            SnapshotRecord, where={"volume_id": record.id}, limit=10
        )
        if dependents:
            names = ", ".join(f"{snapshot.name} ({snapshot.id})" for snapshot in dependents)
            raise errors.VolumeInUse(
                f"Volume {record.id} has snapshots: {names}", advice="Delete them first"
            )

    # -- expand ---------------------------------------------------------------

    def expand(self, request: ExpandVolume) -> Future[int]:
        """CSI ControllerExpandVolume; the future's result is the size in bytes.

        :raises VolumeNotFound: there is no such volume.
        :raises CapacityOutOfRange: no whole GiB in the range.
        :raises OperationInProgress: another operation runs on the volume.
        """
        capacity.check_range(request.required_bytes, request.limit_bytes)
        record = self._context.volume(request.volume_id)
        backend = self._context.backends.of_record(record.backend)
        return self._context.inflight.start(
            record.id,
            "ControllerExpandVolume",
            (request.required_bytes, request.limit_bytes),
            lambda running: self._expand(running, request, backend),
            backend.work,
        )

    def _expand(self, running: Running, request: ExpandVolume, backend: ControllerBackend) -> int:
        context = self._context
        record = context.volume(request.volume_id)
        if record.phase is not Phase.AVAILABLE:
            raise pending.busy(record)
        if record.size_gib * GIB >= max(request.required_bytes, 1):
            if not capacity.satisfies(record.size_gib, 0, request.limit_bytes):
                raise errors.CapacityOutOfRange(
                    f"Volume {record.id} has {record.size_gib * GIB} bytes already, more than"
                    f" limit_bytes {request.limit_bytes}: volumes do not shrink"
                )
            return record.size_gib * GIB
        size = capacity.size_for(request.required_bytes, request.limit_bytes)
        late.refuse_other_size(context, record, size)
        pools.choose(backend.planning_stats(), size, record.pool)
        record = context.write(record, "extend", "backend", target_gib=size)
        running.at("backend extend")
        try:
            grown = attempt(
                f"Extending {record.name!r} to {size} GiB",
                lambda: backend.manager.extend_volume(record, size),
            )
        except DriverCallFailed as failed:
            gone = failed.failure.kind is FailureKind.NOT_FOUND  # no retry brings it back
            if gone or not failed.failure.may_have_effect:
                context.write(record, "extend", "undone")
                raise as_error(failed) from failed
            context.note(record, failed.failure.message)
            raise pending.unsettled(
                record, f"{failed.action} failed: {failed.failure.message}", advice="Retry"
            ) from failed
        running.at("recording")
        context.write(grown, "extend", "available")
        backend.forget_stats()
        return size * GIB


def making(source: Source | None) -> str:
    """The operation that makes a volume: by what it is made from."""
    if source is None:
        return "create"
    return "clone" if source.kind == "volume" else "restore"


def wished(request: CreateVolume, chosen: parameters.Parameters) -> dict[str, Any]:
    """What is asked, as JSON that is equal for equal wishes; sizes are compared apart."""
    return {
        "parameters": chosen.chosen,
        "capabilities": capabilities.normalised(request.capabilities),
        "source": msgspec.to_builtins(request.source),
    }


def refuse_if_different(record: VolumeRecord, request: CreateVolume, wish: dict[str, Any]) -> None:
    """Refuse a name that is taken by a volume with other properties.  Pure.

    :raises IncompatibleExists: names the properties that differ.
    """
    different = [key for key in wish if wish[key] != record.request.get(key)]
    if not capacity.satisfies(record.size_gib, request.required_bytes, request.limit_bytes):
        different.insert(0, f"size ({record.size_gib * GIB} bytes)")
    if different:
        raise errors.IncompatibleExists(
            f"Volume {request.name!r} exists with another {', '.join(different)}"
        )


def refuse_unreachable(
    requisite: tuple[Topology, ...], accessible: tuple[Topology, ...], backend: str
) -> None:
    """Refuse a backend that none of the requisite topologies reaches.  Pure.

    :raises TopologyUnreachable: names what the backend is accessible from.
    """
    if not requisite or not accessible:
        return
    for wanted in requisite:
        for offered in accessible:
            if all(offered.segments.get(key) == value for key, value in wanted.segments.items()):
                return
    reach = "; ".join(str(dict(topology.segments)) for topology in accessible)
    raise errors.TopologyUnreachable(
        f"Backend {backend!r} is not accessible from the requested topology, only from {reach}",
        advice="Use volumeBindingMode WaitForFirstConsumer, or another backend",
    )


def answer(context: ControllerContext, record: VolumeRecord) -> VolumeAnswer:
    """A volume as CSI tells it, without its published nodes."""
    backend = context.backends.of_record(record.backend)
    return VolumeAnswer(volume=record, accessible_from=backend.accessible_from())
