"""What the controller needs to know of nodes; ``cli`` injects an implementation."""

from __future__ import annotations

from typing import Protocol

from csi_driver.base.values import Confirmation, NodeRegistration


class NodeDirectory(Protocol):
    """What nodes told: the controller's side of the node ledger."""

    def node(self, node_id: str) -> NodeRegistration | None:
        """The registration of a node, None when it never registered."""

    def nodes(self) -> list[NodeRegistration]:
        """All registrations."""

    def confirmation(self, volume_id: str) -> Confirmation | None:
        """What nodes proved about a volume, None when nothing was."""

    def has_word(self, volume_id: str) -> bool:
        """Whether a node said anything of a volume, also if that is no proof (any more)."""

    def forget(self, volume_id: str) -> None:
        """Drop what is known of a volume that was deleted; may be repeated."""
