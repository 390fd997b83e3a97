"""What a test tells a double of a driver to do; imports no Cinder.

A test gets the :class:`Faults` of a backend by the backend's name and sets them
before or after the driver is loaded.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Literal

When = Literal["before", "after"]

PATIENCE_SECONDS = 60
"""How long a held call waits for a test that forgot to release it."""


@dataclass
class Gate:
    """A point where a driver call stops until the test lets it go."""

    entered: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    thread: int = 0
    """The thread of the call that stops here, once it has."""

    def stop_here(self) -> None:
        self.thread = threading.get_ident()
        self.entered.set()
        self.released.wait(PATIENCE_SECONDS)

    def wait_until_entered(self) -> None:
        if not self.entered.wait(PATIENCE_SECONDS):
            raise AssertionError("the driver was not called")

    def release(self) -> None:
        self.released.set()


class Faults:
    """The faults of one backend, and what its driver was asked.  Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._errors: dict[tuple[str, When], list[BaseException]] = {}
        self._gates: dict[tuple[str, When], Gate] = {}
        self._next: dict[tuple[str, When], Gate] = {}
        self.calls: list[tuple[str, str]] = []
        self.running = 0
        self.most_running = 0

    def fail(self, operation: str, error: BaseException, when: When = "before") -> None:
        """Let the next call of ``operation`` fail, before or after it took effect."""
        with self._lock:
            self._errors.setdefault((operation, when), []).append(error)

    def hold(self, operation: str, when: When = "before") -> Gate:
        """Let every call of ``operation`` stop until the gate is released."""
        with self._lock:
            return self._gates.setdefault((operation, when), Gate())

    def hold_next(self, operation: str, when: When = "before") -> Gate:
        """Let the next call of ``operation`` stop, and those after it pass."""
        with self._lock:
            return self._next.setdefault((operation, when), Gate())

    def let_go(self, operation: str, when: When = "before") -> None:
        """Release the gate of an operation; its later calls do not stop any more."""
        with self._lock:
            self._gates.pop((operation, when)).release()

    def forget(self) -> None:
        """Let no later call fail or stop; what stops now goes on stopping."""
        with self._lock:
            self._errors.clear()
            self._gates.clear()
            self._next.clear()

    def operations(self) -> list[str]:
        """The names of the calls, in order."""
        with self._lock:
            return [operation for operation, _ in self.calls]

    def enter(self, operation: str, object_id: str) -> None:
        """Told by the driver when a call begins."""
        with self._lock:
            self.calls.append((operation, object_id))
            self.running += 1
            self.most_running = max(self.most_running, self.running)

    def leave(self) -> None:
        """Told by the driver when a call ends."""
        with self._lock:
            self.running -= 1

    def apply(self, operation: str, when: When) -> None:
        """Stop and fail as the test wants it."""
        with self._lock:
            gate = self._gates.get((operation, when)) or self._next.pop((operation, when), None)
            waiting = self._errors.get((operation, when))
            error = waiting.pop(0) if waiting else None
        if gate is not None:
            gate.stop_here()
        if error is not None:
            raise error


_registry: dict[str, Faults] = {}
_registry_lock = threading.Lock()


def of_backend(name: str) -> Faults:
    """The faults of the backend with this name."""
    with _registry_lock:
        return _registry.setdefault(name, Faults())


class VendorError(Exception):
    """An exception as a vendor's library raises it: no relative of Cinder's."""
