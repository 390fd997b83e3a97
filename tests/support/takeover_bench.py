"""A controller that is replaced by others while calls of the earlier ones still run."""

from __future__ import annotations

from typing import Any

from csi_driver.cinderlib.persistence.records import LateAttemptRecord
from csi_driver.cinderlib.persistence.store import RecordStore
from csi_driver.kube.errors import NotLeading
from csi_driver.rpc._generated import csi_pb2 as pb
from tests.support.controller_bench import WAIT, ControllerBench

GRACE = 900.0
ATTACH_GRACE = 60.0


class Clock:
    """Seconds since the epoch, as a test turns them."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Fenced:
    """The store as one controller has it: when another has taken over it writes no more."""

    def __init__(self, inner: RecordStore) -> None:
        self.inner = inner
        self.deposed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def put(self, record: Any) -> Any:
        self._check()
        return self.inner.put(record)

    def delete(self, record: Any) -> None:
        self._check()
        self.inner.delete(record)

    def replace(self, old: Any, new: Any) -> Any:
        self._check()
        return self.inner.replace(old, new)

    def _check(self) -> None:
        if self.deposed:
            raise NotLeading("Another controller leads")


class Cluster(ControllerBench):
    """Controllers that follow each other on one store and one backend."""

    clock: Clock

    def take_over(self, owner: str) -> None:
        """Another process becomes the controller."""
        if isinstance(self.store, Fenced):
            self.store.deposed = True
        fenced: Any = Fenced(getattr(self.store, "inner", self.store))
        self.store = fenced
        self.context_options = {
            "owner": owner,
            "clock": self.clock,
            "grace_seconds": GRACE,
            "attach_grace_seconds": ATTACH_GRACE,
        }
        self.restart()

    def look(self) -> None:
        """One round of the repair loop."""
        for future in self.service.repair.round(self.clock.now):
            future.exception(WAIT)

    def expected(self) -> list[LateAttemptRecord]:
        """The calls that are reckoned with."""
        return self.store.list(LateAttemptRecord)

    def source(self, kind: str) -> pb.VolumeContentSource | None:
        """What a volume of a kind (create, clone, restore) is made from."""
        if kind == "create":
            return None
        volume = self.create("source").volume_id
        made = pb.VolumeContentSource()
        if kind == "clone":
            made.volume.volume_id = volume
        else:
            made.snapshot.snapshot_id = self.snapshot(volume, "of source").snapshot_id
        return made
