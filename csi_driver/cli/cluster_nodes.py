"""The node ledger of a cluster: the controller's side of it, from a cache that watches feed.

Used by ``assembly_controller``.  A node may say only what concerns itself: the admission
policy of the manifests sees to it, and what a node confirms about a volume counts only
while, by the records, the volume is published to that node, or says what is known already.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from csi_driver.base.values import Confirmation, FormattingState, NodeRegistration
from csi_driver.kube import node_objects
from csi_driver.kube.api import Api, Object
from csi_driver.kube.errors import ApiError, ApiNotFound
from csi_driver.kube.group import of_driver
from csi_driver.kube.node_objects import CONFIRMATIONS, NODES
from csi_driver.kube.reflector import Reflector
from csi_driver.node.ports import LedgerUnavailable

LOG = logging.getLogger(__name__)

T = TypeVar("T")

SYNC_SECONDS = 60.0


class ClusterNodes:
    """What nodes told; thread-safe.

    :param is_published: whether a volume is published to a node, by the records.
    :param persistently: makes a request as the record store makes those that change something:
        when this process may, and again when the answer is lost.
    :raises LedgerUnavailable: it could not be read at all.
    """

    def __init__(
        self,
        api: Api,
        driver: str,
        is_published: Callable[[str, str], bool],
        persistently: Callable[[Callable[[], object]], object] = lambda request: request(),
    ) -> None:
        self._api = api
        self._is_published = is_published
        self._persistently = persistently
        self._nodes = _Told(node_objects.registration_of)
        self._confirmations = _Told(node_objects.confirmation_of)
        query = of_driver(driver)
        self._reflectors = (
            Reflector(api, NODES, self._nodes, query),
            Reflector(api, CONFIRMATIONS, self._confirmations, query),
        )
        self._driver = driver
        for reflector in self._reflectors:
            reflector.start()
        for reflector in self._reflectors:
            if not reflector.synced(SYNC_SECONDS):
                self.close()
                raise LedgerUnavailable(f"The nodes cannot be read: {reflector.error}")

    def close(self) -> None:
        """Stop watching."""
        for reflector in self._reflectors:
            reflector.stop()

    def node(self, node_id: str) -> NodeRegistration | None:
        """The registration of a node, if it is told under the node's own name."""
        found = self._nodes.get(node_objects.node_name(node_id, self._driver))
        return found if found is not None and found.node_id == node_id else None

    def nodes(self) -> list[NodeRegistration]:
        """All registrations, by name."""
        return self._nodes.all()

    def confirmation(self, volume_id: str) -> Confirmation | None:
        """What nodes proved about a volume.

        The API server is asked unless the cache knows the volume formatted, which no node
        takes back: a confirmation that is a few milliseconds old decides whether the volume,
        or a copy of it, may be formatted.

        :raises LedgerUnavailable: the API server does not answer.
        """
        known = self._counting(volume_id, self._confirmations.get(volume_id))
        if known is not None and known.formatting.state is FormattingState.FORMATTED:
            return known
        return self._counting(volume_id, self._asked(volume_id))

    def has_word(self, volume_id: str) -> bool:
        """Whether a node said anything of a volume, though it may not count, or be damaged.

        The API server is asked, and waited for: what depends on it may be a copy that took hours.

        :raises LedgerUnavailable: the API server does not answer.
        """
        try:
            self._persistently(lambda: self._api.get(f"{CONFIRMATIONS}/{volume_id}"))
        except ApiNotFound:
            return False
        except ApiError as error:
            raise _unreadable(volume_id, error) from error
        return True

    def forget(self, volume_id: str) -> None:
        """Drop the confirmation of a volume that was deleted or reverted.

        :raises LedgerUnavailable: the API server does not answer.
        """
        try:
            with contextlib.suppress(ApiNotFound):
                self._persistently(lambda: self._api.delete(f"{CONFIRMATIONS}/{volume_id}"))
        except ApiError as error:
            raise LedgerUnavailable(
                f"What is confirmed of volume {volume_id} cannot be dropped: {error.message}",
                advice=error.advice,
            ) from error
        self._confirmations.drop(volume_id)

    def _asked(self, volume_id: str) -> tuple[Confirmation, str] | None:
        try:
            return node_objects.confirmation_of(self._api.get(f"{CONFIRMATIONS}/{volume_id}"))
        except ApiNotFound:
            return None
        except ApiError as error:
            raise _unreadable(volume_id, error) from error

    def _counting(
        self, volume_id: str, told: tuple[Confirmation, str] | None
    ) -> Confirmation | None:
        """What was told, if it counts."""
        if told is None:
            return None
        confirmation, node_id = told
        counts = confirmation.volume_id == volume_id and self._is_published(volume_id, node_id)
        return confirmation if counts else None


def _unreadable(volume_id: str, error: ApiError) -> LedgerUnavailable:
    return LedgerUnavailable(
        f"What is confirmed of volume {volume_id} cannot be read: {error.message}",
        advice=error.advice,
    )


class _Told(Generic[T]):
    """The objects of one kind by their names, decoded.  ``_lock`` protects ``_known``."""

    def __init__(self, decode: Callable[[Object], T | None]) -> None:
        self._decode = decode
        self._lock = threading.Lock()
        self._known: dict[str, T] = {}

    def get(self, name: str) -> T | None:
        with self._lock:
            return self._known.get(name)

    def all(self) -> list[T]:
        with self._lock:
            return [self._known[name] for name in sorted(self._known)]

    def drop(self, name: str) -> None:
        with self._lock:
            self._known.pop(name, None)

    def replace(self, objects: Iterable[Object], resource_version: int) -> None:
        known = {name: told for item in objects for name, told in self._decoded(item)}
        with self._lock:
            self._known = known

    def changed(self, item: Object) -> None:
        for name, told in self._decoded(item):
            with self._lock:
                self._known[name] = told

    def removed(self, item: Object) -> None:
        self.drop(item["metadata"]["name"])

    def _decoded(self, item: Object) -> list[tuple[str, T]]:
        told = self._decode(item)
        if told is None:
            LOG.warning("%s %s says nothing usable", item["kind"], item["metadata"]["name"])
            return []
        return [(item["metadata"]["name"], told)]
