"""The NodeLedger: the one way in which a node touches records.

``node`` owns this interface, ``cli`` injects an implementation: files in a
shared state directory on one machine, the Kubernetes API in a cluster.
"""

from __future__ import annotations

from typing import Protocol

from csi_driver.base.errors import CinderCSIError
from csi_driver.base.values import Confirmation, NodeRegistration


class LedgerUnavailable(CinderCSIError):
    """The ledger cannot be reached; nothing may be formatted now."""

    advice = "Check the shared state directory or the API server; the call may be retried"


class NodeLedger(Protocol):
    """What a node tells to and asks from the records."""

    def register(self, registration: NodeRegistration) -> None:
        """Tell connector properties and topology; repeats replace.

        :raises LedgerUnavailable: it could not be stored.
        """

    def confirm(self, confirmation: Confirmation) -> None:
        """Store what was proved of a volume; durable when it returns.

        :raises LedgerUnavailable: it could not be stored.
        """

    def confirmation(self, volume_id: str) -> Confirmation | None:
        """What was confirmed of the volume so far, by any node; None: nothing.

        :raises LedgerUnavailable: it could not be read.
        """
