"""The node room's front: every call of the CSI Node service, typed and synchronous.

``rpc`` calls it on the threads of its RPCs.  One call at a time works on a volume:
an equal call joins it and gets its answer, another one is refused with what runs.
The work outlives the RPC that began it; so many volumes at most are worked on at a time.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

from csi_driver import __version__
from csi_driver.attach.attacher import Attacher
from csi_driver.base.inflight import InFlight
from csi_driver.base.sealing import KeyRing
from csi_driver.base.turns import Turns, lending, outcome
from csi_driver.base.values import NodeRegistration
from csi_driver.node.expand import expand
from csi_driver.node.operations import Progress
from csi_driver.node.parts import Parts
from csi_driver.node.ports import NodeLedger
from csi_driver.node.publish import publish, unpublish
from csi_driver.node.requests import (
    ExpandRequest,
    NodeInfo,
    NodeSettings,
    PublishRequest,
    StageRequest,
    Usage,
)
from csi_driver.node.stage import stage
from csi_driver.node.state import NodeState
from csi_driver.node.stats import stats
from csi_driver.node.unstage import unstage

__all__ = [
    "ExpandRequest",
    "NodeInfo",
    "NodeService",
    "NodeSettings",
    "PublishRequest",
    "StageRequest",
    "Usage",
]

T = TypeVar("T")


class NodeService:
    """Thread-safe.  Every method that changes something may raise, besides its own errors,
    OperationInProgress (another call works on the volume) and ShuttingDown.

    :param keys: gives the current transport keys; asked at each use.
    :param clock: seconds since the epoch, for messages about running calls.
    """

    def __init__(
        self,
        settings: NodeSettings,
        ledger: NodeLedger,
        keys: Callable[[], KeyRing],
        attacher: Attacher,
        clock: Callable[[], float] = time.time,
    ) -> None:
        state = NodeState(settings.state_dir / "volumes")
        self._parts = Parts(settings, state, ledger, keys, attacher)
        self._in_flight = InFlight(clock)
        self._turns = Turns(settings.workers, "node")

    def stage(self, request: StageRequest) -> None:
        """CSI NodeStageVolume; see :func:`csi_driver.node.stage.stage`."""

        def work(progress: Progress) -> None:
            stage(self._parts, request, progress)

        self._run("NodeStageVolume", "stage", request.volume_id, request, work)

    def unstage(self, volume_id: str, staging_path: str) -> None:
        """CSI NodeUnstageVolume; see :func:`csi_driver.node.unstage.unstage`."""

        def work(progress: Progress) -> None:
            unstage(self._parts, volume_id, staging_path, progress)

        self._run("NodeUnstageVolume", "unstage", volume_id, staging_path, work)

    def publish(self, request: PublishRequest) -> None:
        """CSI NodePublishVolume; see :func:`csi_driver.node.publish.publish`."""

        def work(progress: Progress) -> None:
            publish(self._parts, request, progress)

        self._run("NodePublishVolume", "publish", request.volume_id, request, work)

    def unpublish(self, volume_id: str, target_path: str) -> None:
        """CSI NodeUnpublishVolume; see :func:`csi_driver.node.publish.unpublish`."""

        def work(progress: Progress) -> None:
            unpublish(self._parts, volume_id, target_path, progress)

        self._run("NodeUnpublishVolume", "unpublish", volume_id, target_path, work)

    def expand(self, request: ExpandRequest) -> int:
        """CSI NodeExpandVolume; the size in bytes; see :func:`csi_driver.node.expand.expand`."""

        def work(progress: Progress) -> int:
            return expand(self._parts, request, progress)

        return self._run("NodeExpandVolume", "expand", request.volume_id, request, work)

    def stats(self, volume_id: str, volume_path: str, staging_path: str = "") -> tuple[Usage, ...]:
        """CSI NodeGetVolumeStats; see :func:`csi_driver.node.stats.stats`.

        Changes nothing, so it waits for no other call.  ``staging_path`` is not
        needed: the node's state knows it.
        """
        return stats(self._parts, volume_id, volume_path)

    def info(self) -> NodeInfo:
        """CSI NodeGetInfo; touches no device and no store."""
        settings = self._parts.settings
        return NodeInfo(
            node_id=settings.node_id,
            max_volumes=settings.max_volumes,
            topology=dict(settings.topology),
        )

    def registration(self) -> NodeRegistration:
        """How this node is reached now; for :class:`csi_driver.node.registrar.Registrar`.

        :raises ConnectorPropertiesFailed: this node cannot tell.
        """
        settings = self._parts.settings
        return NodeRegistration(
            node_id=settings.node_id,
            connector=self._parts.attacher.connector_properties(),
            topology=dict(settings.topology),
            max_volumes=settings.max_volumes,
            version=__version__,
        )

    def drain(self, timeout: float | None = None) -> bool:
        """Start nothing more and wait for what runs; False when some of it still runs.

        :param timeout: seconds; None waits for ever.  Mounts stay: Pods use them.
        """
        drained = self._in_flight.close(timeout)
        self._turns.shutdown(wait=False)
        return drained

    def running(self) -> list[str]:
        """One sentence per running call, for logs."""
        return self._in_flight.describe()

    def _run(
        self,
        kind: str,
        operation: str,
        volume_id: str,
        arguments: object,
        work: Callable[[Progress], T],
    ) -> T:
        with lending():
            future = self._in_flight.start(
                volume_id,
                kind,
                _fingerprint(arguments),
                lambda call: work(Progress(operation, call.at)),
                self._turns,
            )
        return outcome(future)


def _fingerprint(arguments: object) -> bytes:
    # A digest, so that no secret of a request lives on in the table of calls.
    text = msgspec.json.encode(arguments, enc_hook=dict, order="deterministic")
    return hashlib.sha256(text).digest()
