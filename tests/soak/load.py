"""The load of the soak: clients that go through the lives of volumes, always under new names."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

from tests.support.sidecar import Answer, Code, Sidecar

NODE = "node-1"


class Countdown:
    """Operations that are left to do, shared by all clients."""

    def __init__(self, operations: int) -> None:
        self._changed = threading.Condition()
        self.operations = operations
        self.done = 0
        self._stopped = False

    def take(self) -> bool:
        """Count one operation; False when there is no more to do."""
        with self._changed:
            if self._stopped or self.done >= self.operations:
                return False
            self.done += 1
            self._changed.notify_all()
            return True

    def wait_until(self, done: int, seconds: float) -> bool:
        """Wait until so many are done; False when that takes too long, or nobody does more."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self.done >= done, seconds)
            return self.done >= done

    def stop(self) -> None:
        """Let every client end what it does and do no more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


class LoadClient:
    """One client."""

    def __init__(self, number: int, socket: Path, left: Countdown) -> None:
        self._number = number
        self._left = left
        self._sidecar = Sidecar(str(socket))
        self._turns = itertools.count()

    def run(self) -> None:
        """Live one life after the other until no operation is left; leaves nothing behind."""
        try:
            while self._left.take():
                self._life(f"client{self._number}-{next(self._turns)}")
        except BaseException:
            self._left.stop()
            raise
        finally:
            self._sidecar.close()

    def _life(self, name: str) -> None:
        """Eleven operations on two volumes and a snapshot; the first is counted already."""
        calls = self._sidecar
        volume = calls.create(name, 1).expect().body.volume.volume_id
        self._repeat(name, volume)
        cut = self._count(calls.snapshot(f"{name}-cut", volume)).snapshot.snapshot_id
        copy = self._count(calls.restore(f"{name}-copy", 2, cut)).volume.volume_id
        self._count(calls.publish(copy, NODE))
        self._count(calls.expand(copy, 3))
        self._left.take()
        # Refused, as a caller's mistakes are: refusals must not cost anything for ever either.
        if calls.delete(volume).code is not Code.FAILED_PRECONDITION:
            raise AssertionError(f"volume {volume} was deleted although it has a snapshot")
        self._count(calls.unpublish(copy, NODE))
        self._count(calls.delete_snapshot(cut))
        self._count(calls.delete(copy))
        self._count(calls.delete(volume))

    def _repeat(self, name: str, volume: str) -> None:
        again = self._count(self._sidecar.create(name, 1)).volume.volume_id
        if again != volume:
            raise AssertionError(f"{name} is {again} and {volume}")

    def _count(self, answer: Answer) -> Any:
        self._left.take()
        return answer.expect().body
