"""The ``kubernetes`` store: records as custom resources, read from a cache that watches feed.

Opened by ``cli`` for the controller of a cluster.  Reads never ask the API server: they
answer from the cache, which knows this process's own writes at once and those of others
within milliseconds, or says since when it may be stale.  A write is one request.

Whose write it was is told by ``status.recordVersion``, a random number that each change
carries: when the answer to a write is lost, the write is made again, and an object that
already has that number is proof that the first one arrived.  A change of an object that
is not a change of its record (somebody's label) keeps the number, so the write is made
over the newer object.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec

from csi_driver.cinderlib.persistence import codec, conflicts
from csi_driver.cinderlib.persistence.kubernetes import definitions, installations, objects
from csi_driver.cinderlib.persistence.kubernetes.attached import AttachedColumn
from csi_driver.cinderlib.persistence.kubernetes.cache import Cache, Cached
from csi_driver.cinderlib.persistence.kubernetes.notices import notices
from csi_driver.cinderlib.persistence.kubernetes.resources import (
    BY_RECORD,
    FINALIZER,
    RESOURCES,
    Resource,
)
from csi_driver.cinderlib.persistence.records import ConnectionRecord, Record, VolumeRecord
from csi_driver.cinderlib.persistence.store import (
    RecordConflict,
    RecordStore,
    StoreCorrupt,
    StoreUnavailable,
)
from csi_driver.kube.api import Api, Object
from csi_driver.kube.errors import (
    AWAY,
    ApiBusy,
    ApiConflict,
    ApiError,
    ApiExpired,
    ApiNotFound,
)
from csi_driver.kube.events import Events
from csi_driver.kube.group import of_driver
from csi_driver.kube.reflector import Reflector

LOG = logging.getLogger(__name__)

R = TypeVar("R", bound=Record)
T = TypeVar("T")

WRITE_SECONDS = 20.0
"""How long a write is tried again while the API server does not answer it."""

SYNC_SECONDS = 60.0
"""How long the first reading of all records may take."""


class KubernetesStore(RecordStore):
    """Records of one driver in a cluster.

    :param driver: the CSI driver name; other drivers' records are not seen.
    :param speaks: whether this process tells Events now: of several replicas the leader does.
    :param may_write: returns as soon as this process may write, and raises when it never
        may again; called before every write.  While the leader cannot reach the API server
        it waits there: what a backend did is written when the server is back.
    :param may_be_new: called before the first records of a driver are begun; raises to
        prevent it.
    :param wait: waits so many seconds between tries; injected by tests.
    :raises ConfigurationError: definitions are missing or too old.
    :raises StoreUnavailable: the API server cannot be reached, or refuses.
    """

    def __init__(
        self,
        api: Api,
        driver: str,
        *,
        speaks: Callable[[], bool] = lambda: True,
        may_write: Callable[[], None] = lambda: None,
        may_be_new: Callable[[], None] = lambda: None,
        wait: Callable[[float], Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._speaks = speaks
        self._may_write = may_write
        self._driver = driver
        self._closed = threading.Event()
        self._wait = wait or self._closed.wait
        self._clock = clock
        self._caches = {each.record: Cache(each, self._told) for each in RESOURCES}
        self._reflectors = {
            each.record: Reflector(api, each.path, self._caches[each.record], of_driver(driver))
            for each in RESOURCES
        }
        with _explained("The records cannot be opened"):
            definitions.check(api)
            self.installation_id, self.fresh = self._installation(may_be_new)
        self._events = Events(api, driver)
        self._attached = AttachedColumn(self._write_attached)
        for reflector in self._reflectors.values():
            reflector.start()
        try:
            self._wait_for_all()
        except BaseException:
            self.close()
            raise

    # -- reading ---------------------------------------------------------------

    def get(self, kind: type[R], record_id: str) -> R | None:
        """See :meth:`RecordStore.get`."""
        found = self._cache(kind).get(record_id)
        return None if found is None else _decoded(kind, found)

    def list(
        self,
        kind: type[R],
        *,
        where: Mapping[str, str] | None = None,
        after: str = "",
        limit: int | None = None,
    ) -> list[R]:
        """See :meth:`RecordStore.list`."""
        selected = codec.selection(kind, where)
        return [_decoded(kind, each) for each in self._cache(kind).page(selected, after, limit)]

    @property
    def stale_since(self) -> float | None:
        """Since when (seconds since the epoch) reads may miss changes; None while they do not."""
        since = [each.out_of_touch_since for each in self._reflectors.values()]
        return min((each for each in since if each is not None), default=None)

    def refresh(self) -> None:
        """Read all records anew: for one who becomes the leader after it read them.

        What the leader before wrote last may not have come by the watches yet.

        :raises StoreUnavailable: the API server does not answer.
        :raises StoreCorrupt: the records are another installation's since this store was opened.
        """
        kinds = list(self._caches)
        with _explained("The records cannot be read"), ThreadPoolExecutor(len(kinds)) as pool:
            found = self.persistently(lambda: installations.find(self._api, self._driver))
            if found != self.installation_id:
                raise StoreCorrupt(
                    f"The CinderInstallation {self._driver} is not the one that was there when"
                    " this process started",
                    advice="Start it again; if the object is gone, restore it with its records",
                )
            list(pool.map(self._read_anew, kinds))

    # -- writing ---------------------------------------------------------------

    def put(self, record: R) -> R:
        """See :meth:`RecordStore.put`."""
        kind = type(record)
        cache = self._cache(kind)
        version = secrets.randbits(53) or 1
        known = cache.get(record.id)
        refusal = conflicts.why_not_put(record, known.version if known else None)
        if refusal:
            raise refusal
        codec.require_storable(record)
        codec.encode(record)  # what JSON has no place for is refused before anything is sent
        with _explained(f"The {record.KIND} record {record.id!r} cannot be stored"):
            item = self._written(record, version, known)
        cache.changed(item)
        if isinstance(record, ConnectionRecord):
            self._attached.update(record.volume_id)
        return objects.to_record(kind, item)

    def delete(self, record: Record) -> None:
        """See :meth:`RecordStore.delete`."""
        resource = BY_RECORD[type(record)]
        cache = self._cache(type(record))
        known = cache.get(record.id)
        refusal = conflicts.why_not_delete(record, known.version if known else None)
        if refusal:
            raise refusal
        if known is None:
            return
        with _explained(f"The {record.KIND} record {record.id!r} cannot be removed"):
            gone_at = self._removed(resource, record, known)
        cache.forget(record.id, gone_at, known.uid)
        if isinstance(record, ConnectionRecord):
            self._attached.update(record.volume_id)

    def adopt(self, installation_id: str) -> None:
        """See :meth:`RecordStore.adopt`.

        :raises RecordConflict: the store is not new, and belongs to another installation.
        """
        if installation_id == self.installation_id:
            return
        if not self.fresh:
            raise RecordConflict(
                f"The CinderInstallation {self._driver} is that of {self.installation_id}",
                advice="Records of another installation go into a cluster, or under a driver"
                " name, that has none",
            )
        with _explained("The CinderInstallation cannot be changed"):
            installations.replace(self._api, self._driver, installation_id)
        self.installation_id = installation_id

    def settle(self, seconds: float) -> bool:
        """Wait until what is derived for people is written, too; False when that takes longer."""
        return self._attached.wait(seconds)

    def close(self) -> None:
        """See :meth:`RecordStore.close`."""
        self._closed.set()
        self._attached.close()
        self._events.close()
        for reflector in self._reflectors.values():
            reflector.stop()
        self._api.close()

    # -- one write -------------------------------------------------------------

    def _written(self, record: Record, version: int, known: Cached | None) -> Object:
        resource = BY_RECORD[type(record)]
        path = self._path(resource, record.id)
        before: Object | None = msgspec.json.decode(known.item) if known else None

        def write() -> Object:
            now = datetime.datetime.now(datetime.UTC)
            item = objects.to_object(record, version, self._driver, before, now)
            if before is None:
                return self._api.create(resource.path, item)
            return self._api.replace(path, item)

        while True:
            try:
                return self.persistently(write)
            except (ApiConflict, ApiNotFound):
                stored = self._read(path)
                if stored is not None and objects.record_version(stored) == version:
                    return stored
                self._learn(resource, record.id, stored)
                refusal = conflicts.why_not_put(
                    record, None if stored is None else objects.record_version(stored)
                )
                if refusal:
                    raise refusal from None
                before = stored

    def _removed(self, resource: Resource, record: Record, known: Cached) -> int:
        """Take the finalizer off and delete; the resource version of the removal."""
        path = self._path(resource, record.id)
        stored: Object | None = msgspec.json.decode(known.item)
        while stored is not None:
            if objects.record_version(stored) != record.version:
                self._learn(resource, record.id, stored)
                refusal = conflicts.why_not_delete(record, objects.record_version(stored))
                assert refusal is not None
                raise refusal
            try:
                return self._remove(path, stored)
            except ApiConflict:
                stored = self._read(path)
            except ApiNotFound:
                break
        # Gone before, by an earlier call or by this one's lost answer.
        return int(known.resource_version) + 1

    def _remove(self, path: str, stored: Object) -> int:
        metadata = stored["metadata"]
        left = [each for each in metadata.get("finalizers") or () if each != FINALIZER]
        if left != (metadata.get("finalizers") or []):
            metadata["finalizers"] = left
            stored = self.persistently(lambda: self._api.replace(path, stored))
        metadata = stored["metadata"]
        if metadata.get("deletionTimestamp") and not left:
            return int(metadata["resourceVersion"])  # somebody's deletion waited for this
        self.persistently(
            lambda: self._api.delete(
                path, uid=metadata["uid"], resource_version=metadata["resourceVersion"]
            )
        )
        return int(metadata["resourceVersion"]) + 1

    def persistently(self, request: Callable[[], T]) -> T:
        """Make a request when this process may write, until it is answered.

        It may be made more than once: what a write names lets one succeed only.

        :raises ApiError: it is refused, or not answered within ``WRITE_SECONDS``.
        """
        until = self._clock() + WRITE_SECONDS
        delay = 0.2
        while True:
            asked = self._clock()
            self._may_write()
            if self._clock() - asked > 1.0:  # the server was away: its time begins anew
                until = self._clock() + WRITE_SECONDS
            try:
                return request()
            except (*AWAY, ApiExpired) as error:
                pause = max(delay, error.retry_after if isinstance(error, ApiBusy) else 0.0)
                if self._closed.is_set() or self._clock() + pause > until:
                    raise
                self._wait(pause)
                delay = min(delay * 2, 5.0)

    def _read_anew(self, kind: type[Record]) -> None:
        def read() -> None:
            found, version = self._api.stream(BY_RECORD[kind].path, of_driver(self._driver))
            self._caches[kind].replace(found, int(version))

        self.persistently(read)

    def _read(self, path: str) -> Object | None:
        try:
            return self.persistently(lambda: self._api.get(path))
        except ApiNotFound:
            return None

    def _learn(self, resource: Resource, record_id: str, stored: Object | None) -> None:
        """Let the cache know what a conflict told: the caller plans on it next."""
        cache = self._caches[resource.record]
        if stored is not None:
            cache.changed(stored)
            return
        known = cache.get(record_id)
        if known is not None:
            cache.forget(record_id, known.resource_version, known.uid)

    # -- for people --------------------------------------------------------------

    def _told(self, before: Object | None, item: Object) -> None:
        if self._speaks():
            for notice in notices(before, item):
                self._events.tell(notice)

    def _write_attached(self, volume_id: str) -> None:
        """Make the column of a volume what its connections say."""
        known = self._caches[VolumeRecord].get(volume_id)
        if known is None or self._closed.is_set():
            return
        connections = self.list(ConnectionRecord, where={"volume_id": volume_id})
        nodes = sorted(each.node_id or each.attached_host for each in connections)
        names = ", ".join(filter(None, nodes)) or None
        if (msgspec.json.decode(known.item).get("status") or {}).get("attachedTo") == names:
            return
        path = self._path(BY_RECORD[VolumeRecord], volume_id)
        item = self._api.patch(path, {"status": {"attachedTo": names}})
        self._caches[VolumeRecord].changed(item)

    # -- parts -----------------------------------------------------------------

    def _cache(self, kind: type[Record]) -> Cache:
        if self._closed.is_set():
            raise StoreUnavailable("The record store is closed")
        return self._caches[kind]

    def _path(self, resource: Resource, record_id: str) -> str:
        return f"{resource.path}/{objects.object_name(resource, self._driver, record_id)}"

    def _installation(self, may_be_new: Callable[[], None]) -> tuple[str, bool]:
        """The installation id, made when there is none, and whether it was made now."""
        found = installations.find(self._api, self._driver)
        if found is not None:
            return found, False
        may_be_new()
        return installations.make(self._api, self._driver, str(uuid.uuid4()))

    def _wait_for_all(self) -> None:
        until = self._clock() + SYNC_SECONDS
        for reflector in self._reflectors.values():
            if not reflector.synced(max(0.0, until - self._clock())):
                raise StoreUnavailable(
                    f"The records could not be read within {SYNC_SECONDS:g} s: {reflector.error}"
                )


def _decoded(kind: type[R], found: Cached) -> R:
    if found.why:
        raise StoreCorrupt(found.why)
    return codec.decode(kind, found.body)


@contextlib.contextmanager
def _explained(what: str) -> Any:
    try:
        yield
    except ApiError as error:
        raise StoreUnavailable(f"{what}: {error.message}", advice=error.advice) from error
