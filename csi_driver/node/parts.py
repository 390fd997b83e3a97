"""What the steps of the node share: settings, state, ledger, keys, attacher.

Made once by :class:`csi_driver.node.service.NodeService` and passed to ``stage``,
``unstage``, ``publish``, ``expand`` and ``stats``, which are plain functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from csi_driver.attach.attacher import Attacher
from csi_driver.base.publish_context import open_context
from csi_driver.base.sealing import KeyRing
from csi_driver.base.values import PublishContext
from csi_driver.node.ports import NodeLedger
from csi_driver.node.requests import NodeSettings
from csi_driver.node.state import NodeState, StagedVolume


@dataclass(frozen=True)
class Parts:
    """``keys`` is asked each time: keys are rotated while the node runs."""

    settings: NodeSettings
    state: NodeState
    ledger: NodeLedger
    keys: Callable[[], KeyRing]
    attacher: Attacher

    def open_context(self, volume_id: str, mapping: Mapping[str, str]) -> PublishContext:
        """The publish_context of the volume for this node.

        :raises InvalidRequest, SealError: see :func:`csi_driver.base.publish_context.open_context`.
        """
        settings = self.settings
        return open_context(mapping, self.keys(), settings.driver_name, volume_id, settings.node_id)

    def connection(self, staged: StagedVolume) -> dict[str, Any]:
        """The connection info that the volume was attached with.

        :raises SealError: the key that sealed it is gone.
        """
        context = self.open_context(staged.volume_id, staged.publish_context)
        return connection_for(context, staged.readonly)


def connection_for(context: PublishContext, readonly: bool) -> dict[str, Any]:
    """Connection info with the access mode that this node is to have."""
    if not readonly:
        return context.connection
    data = {**context.connection.get("data", {}), "access_mode": "ro"}
    return {**context.connection, "data": data}
