"""The node ledger of a cluster: the node's side of it, over plain requests to the API.

Used by ``assembly_node``.  Loads neither the record store nor the Kubernetes client: the
node process stays small.  Each call is one request, or two; only what the safety of a
stage depends on is asked, so an API server that is away delays neither unstage nor
unpublish, which ask nothing.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from csi_driver.base.values import Confirmation, NodeRegistration
from csi_driver.kube import node_objects
from csi_driver.kube.api import Api, Object
from csi_driver.kube.errors import ApiConflict, ApiError, ApiNotFound
from csi_driver.kube.node_objects import CONFIRMATIONS, NODES
from csi_driver.node.ports import LedgerUnavailable

LOG = logging.getLogger(__name__)

_TRIES = 5
"""How often a change is made over an object that somebody else changed meanwhile."""


class ClusterLedger:
    """The ledger of one node.  Thread-safe: it keeps nothing.

    :param node_id: this node; an admission policy lets it write no other's objects.
    """

    def __init__(self, api: Api, driver: str, node_id: str) -> None:
        self._api = api
        self._driver = driver
        self._node_id = node_id

    def register(self, registration: NodeRegistration) -> None:
        """Store a node's registration.

        :raises LedgerUnavailable: the API server does not take it.
        """
        item = node_objects.node_object(registration, self._driver)
        with _explained(f"Node {registration.node_id} cannot be registered"):
            self._store(NODES, item)

    def confirm(self, confirmation: Confirmation) -> None:
        """Store what this node proved about a volume.

        :raises LedgerUnavailable: the API server does not take it.
        """
        item = node_objects.confirmation_object(confirmation, self._node_id, self._driver)
        with _explained(f"Volume {confirmation.volume_id} cannot be confirmed"):
            self._store(CONFIRMATIONS, item)

    def confirmation(self, volume_id: str) -> Confirmation | None:
        """What was confirmed of a volume.

        :raises LedgerUnavailable: the API server does not answer, or the object is damaged.
        """
        try:
            item = self._api.get(f"{CONFIRMATIONS}/{volume_id}")
        except ApiNotFound:
            return None
        except ApiError as error:
            what = f"What is confirmed of volume {volume_id} cannot be read"
            raise LedgerUnavailable(f"{what}: {error.message}", advice=error.advice) from error
        found = node_objects.confirmation_of(item)
        if found is None:
            raise LedgerUnavailable(
                f"The CinderConfirmation {volume_id} is damaged",
                advice=f"See kubectl get cinderconfirmation {volume_id} -o yaml",
            )
        return found[0]

    def _store(self, collection: str, item: Object) -> None:
        """Make the object, or write it over the one that is there, unless that is equal."""
        path = f"{collection}/{item['metadata']['name']}"
        for last in (*[False] * (_TRIES - 1), True):
            try:
                stored = self._api.get(path)
            except ApiNotFound:
                stored = None
            try:
                if stored is None:
                    self._api.create(collection, item)
                elif stored.get("spec") != item["spec"]:
                    stored["spec"] = item["spec"]
                    stored["metadata"].setdefault("labels", {}).update(item["metadata"]["labels"])
                    self._api.replace(path, stored)
                return
            except (ApiConflict, ApiNotFound):
                if last:
                    raise


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except ApiError as error:
        raise LedgerUnavailable(f"{what}: {error.message}", advice=error.advice) from error
