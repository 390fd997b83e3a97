"""What can be read: volumes, snapshots, capacity, the capabilities of a volume.

Lists cost what their page costs: records come in the order of their ids, and a
token is the last id of the page before.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import TypeVar

from csi_driver.base.errors import InvalidRequest
from csi_driver.base.turns import done
from csi_driver.base.values import GIB, Topology, VolumeCapability
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    Phase,
    SnapshotRecord,
    VolumeRecord,
)
from csi_driver.controller import capabilities, errors, parameters
from csi_driver.controller.backends import ControllerBackend
from csi_driver.controller.context import ControllerContext
from csi_driver.controller.values import Capacity, Page, VolumeAnswer
from csi_driver.controller.volumes import refuse_unreachable

R = TypeVar("R", VolumeRecord, SnapshotRecord)

_RANGE_CHUNK = 500


class Listing:
    """The reading use cases; none of them waits for an operation."""

    def __init__(self, context: ControllerContext) -> None:
        self._context = context

    def volumes(self, max_entries: int, token: str) -> Page:
        """CSI ListVolumes: the volumes that are there, with the nodes that have them.

        :raises InvalidRequest: negative ``max_entries``.
        :raises BadToken: no token of ours.
        """
        records = self._context.store.list(
            VolumeRecord,
            where={"phase": Phase.AVAILABLE},
            after=_after(token),
            limit=_limit(max_entries),
        )
        records, next_token = _cut(records, max_entries)
        published = self._published(records)
        reach = {name: self._reach(name) for name in {record.backend for record in records}}
        return Page(
            volumes=tuple(
                VolumeAnswer(
                    volume=record,
                    accessible_from=reach[record.backend],
                    published_to=published.get(record.id, ()),
                )
                for record in records
            ),
            next_token=next_token,
        )

    def _reach(self, backend: str) -> tuple[Topology, ...]:
        """Where a backend is accessible from; nothing is known of one that is configured no more.

        Its volumes are listed all the same: they exist, and a caller that missed them here
        would take them for deleted.
        """
        try:
            return self._context.backends.of_record(backend).accessible_from()
        except errors.BackendUnavailable:
            return ()

    def _published(self, records: Sequence[VolumeRecord]) -> dict[str, tuple[str, ...]]:
        """Nodes by volume, read as one range: connection ids begin with the volume's."""
        if not records:
            return {}
        found: dict[str, tuple[str, ...]] = {}
        after, last = records[0].id, records[-1].id + "0"  # "0" sorts behind the "/" of an id
        while True:
            chunk = self._context.store.list(ConnectionRecord, after=after, limit=_RANGE_CHUNK)
            for connection in chunk:
                if connection.id >= last:
                    return found
                nodes = found.get(connection.volume_id, ())
                found[connection.volume_id] = (*nodes, connection.node_id)
            if len(chunk) < _RANGE_CHUNK:
                return found
            after = chunk[-1].id

    def volume(self, volume_id: str) -> VolumeAnswer:
        """CSI ControllerGetVolume.

        :raises VolumeNotFound: there is no such volume.
        """
        found = self._context.volume(volume_id)
        nodes = tuple(c.node_id for c in self._context.connections(volume_id))
        return VolumeAnswer(
            volume=found, accessible_from=self._reach(found.backend), published_to=nodes
        )

    def snapshot(self, snapshot_id: str) -> SnapshotRecord:
        """CSI GetSnapshot.

        :raises SnapshotNotFound: there is no such snapshot, or it is not made yet.
        """
        record = self._context.store.get(SnapshotRecord, snapshot_id)
        if record is None or record.phase is not Phase.AVAILABLE:
            raise errors.SnapshotNotFound(f"There is no snapshot {snapshot_id!r}")
        return record

    def snapshots(
        self, max_entries: int, token: str, volume_id: str = "", snapshot_id: str = ""
    ) -> Page:
        """CSI ListSnapshots; unknown filters give an empty page.

        :raises InvalidRequest: negative ``max_entries``.
        :raises BadToken: no token of ours.
        """
        after, limit = _after(token), _limit(max_entries)
        if snapshot_id:
            one = self._context.store.get(SnapshotRecord, snapshot_id)
            fits = one and one.phase is Phase.AVAILABLE and volume_id in ("", one.volume_id)
            return Page(snapshots=(one,) if one and fits else ())
        where = {"phase": str(Phase.AVAILABLE)}
        if volume_id:
            where["volume_id"] = volume_id
        records = self._context.store.list(SnapshotRecord, where=where, after=after, limit=limit)
        records, next_token = _cut(records, max_entries)
        return Page(snapshots=tuple(records), next_token=next_token)

    def capacity(
        self,
        given: Mapping[str, str],
        wanted: Sequence[VolumeCapability],
        topology: Topology | None,
    ) -> Future[Capacity]:
        """CSI GetCapacity for the class's backend and pool.

        A capability that cannot be had, or a topology that does not reach the
        backend, has no room at all.  The backend is asked in turns of its own.

        :raises InvalidRequest: unknown parameter or backend; from the future: unknown pool.
        :raises BackendUnavailable: from the future: the backend does not answer.
        """
        chosen = parameters.parse(given, parameters.VOLUME_PARAMETERS)
        backend = self._context.backends.named(chosen.backend)
        return backend.questions.submit(_capacity_for, backend, chosen.pool, wanted, topology)

    def unsupported(
        self,
        volume_id: str,
        wanted: Sequence[VolumeCapability],
        given: Mapping[str, str],
    ) -> Future[str]:
        """CSI ValidateVolumeCapabilities: why they cannot be confirmed; '' when they can.

        The backend is asked once: what it can does not change while the process runs.

        :raises VolumeNotFound: there is no such volume.
        :raises BackendUnavailable: its backend is not configured; from the future: it does
            not answer.
        """
        record = self._context.volume(volume_id)
        if not wanted:
            raise InvalidRequest("volume_capabilities is missing")
        chosen = parameters.parse(given, parameters.VOLUME_PARAMETERS).chosen
        if chosen and chosen != record.request.get("parameters"):
            return done("the volume was made with other parameters")
        backend = self._context.backends.of_record(record.backend)
        if (multiattach := backend.told_multiattach) is not None:
            return done(_problem(wanted, multiattach))
        return backend.questions.submit(_problem_of, backend, wanted)


def _problem_of(backend: ControllerBackend, wanted: Sequence[VolumeCapability]) -> str:
    return _problem(wanted, backend.stats().multiattach)


def _problem(wanted: Sequence[VolumeCapability], multiattach: bool) -> str:
    problems = (capabilities.problem(c, multiattach=multiattach) for c in wanted)
    return next((problem for problem in problems if problem), "")


def _capacity_for(
    backend: ControllerBackend,
    pool: str,
    wanted: Sequence[VolumeCapability],
    topology: Topology | None,
) -> Capacity:
    if _problem_of(backend, wanted):
        return Capacity(available_bytes=0)
    if topology is not None:
        try:
            refuse_unreachable((topology,), backend.accessible_from(), backend.name)
        except errors.TopologyUnreachable:
            return Capacity(available_bytes=0)
    return _capacity(backend, pool)


def _capacity(backend: ControllerBackend, pool: str) -> Capacity:
    pools = [p for p in backend.stats().pools if not pool or p.name == pool]
    if not pools:
        raise InvalidRequest(f"Backend {backend.name!r} has no pool {pool!r}")
    free = [p.available_gib for p in pools if p.available_gib is not None]
    if len(free) < len(pools):
        # A pool that tells no figure (or "infinite") is taken as boundless.
        return Capacity(available_bytes=(1 << 62))
    largest = int(max(free)) * GIB
    return Capacity(available_bytes=int(sum(free) * GIB), maximum_volume_bytes=largest)


def _after(token: str) -> str:
    if not token:
        return ""
    try:
        valid = str(uuid.UUID(token)) == token
    except ValueError:
        valid = False
    if not valid:
        raise errors.BadToken(f"starting_token {token!r} is no token of this plugin")
    return token


def _limit(max_entries: int) -> int | None:
    if max_entries < 0:
        raise InvalidRequest(f"max_entries {max_entries} is negative")
    return max_entries + 1 if max_entries else None


def _cut(records: list[R], max_entries: int) -> tuple[list[R], str]:
    """The page, and the token of the next one when a record more was found."""
    if max_entries and len(records) > max_entries:
        return records[:max_entries], records[max_entries - 1].id
    return records, ""
