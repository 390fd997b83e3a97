"""A NodeLedger in memory: real behaviour, nothing on disk; and one that is out of reach."""

from __future__ import annotations

import threading

from csi_driver.base.values import Confirmation, NodeRegistration
from csi_driver.node.ports import LedgerUnavailable


class MemoryLedger:
    """Keeps what nodes tell; shared by several services it plays several nodes' ledger."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._confirmations: dict[str, Confirmation] = {}
        self.registrations: dict[str, NodeRegistration] = {}

    def register(self, registration: NodeRegistration) -> None:
        with self._lock:
            self.registrations[registration.node_id] = registration

    def confirm(self, confirmation: Confirmation) -> None:
        with self._lock:
            self._confirmations[confirmation.volume_id] = confirmation

    def confirmation(self, volume_id: str) -> Confirmation | None:
        with self._lock:
            return self._confirmations.get(volume_id)


class FailingLedger(MemoryLedger):
    """Fails from the n-th call of a kind on, as a server that goes away does.

    ``reads`` and ``writes`` say how many calls still succeed.
    """

    def __init__(self, reads: int = 0, writes: int = 0) -> None:
        super().__init__()
        self.reads, self.writes = reads, writes

    def register(self, registration: NodeRegistration) -> None:
        self._use("writes")
        super().register(registration)

    def confirm(self, confirmation: Confirmation) -> None:
        self._use("writes")
        super().confirm(confirmation)

    def confirmation(self, volume_id: str) -> Confirmation | None:
        self._use("reads")
        return super().confirmation(volume_id)

    def _use(self, kind: str) -> None:
        left = getattr(self, kind)
        if left == 0:
            raise LedgerUnavailable("The ledger is out of reach")
        setattr(self, kind, left - 1)
