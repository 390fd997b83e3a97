"""The backends of a controller: each with its manager and a bounded number of calls at a time.

A slow backend takes up only its own turns.  Attach and detach have turns apart, so
that a burst of detaches does not delay an attach, and so have questions: operations keep
theirs while they wait for an API server that is away, and reads are answered meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from csi_driver.base.errors import CinderCSIError, ConfigurationError, InvalidRequest
from csi_driver.base.turns import Turns
from csi_driver.base.values import Topology
from csi_driver.cinderlib.failures import Failure, FailureKind, classify
from csi_driver.cinderlib.manager import BackendStats, VolumeManager
from csi_driver.controller import errors
from csi_driver.controller.ports import NodeDirectory

T = TypeVar("T")

WORK_THREADS = 24
"""Calls that run on one backend at a time, beside attaches and detaches."""

ATTACH_THREADS = 8
DETACH_THREADS = 8

QUESTION_THREADS = 4
"""Calls that ask a backend for its statistics, for an answer that waits for no record."""

STATS_SECONDS = 30.0
"""How long a backend's statistics are used before they are asked for again."""


class ControllerBackend:
    """One backend: its manager, its turns, what is known of its reach.

    :param topology_key: the topology key whose value is a node's own segment.
    """

    def __init__(
        self,
        manager: VolumeManager,
        nodes: NodeDirectory,
        topology_key: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = manager.name
        self.manager = manager
        self._nodes = nodes
        self._topology_key = topology_key
        self._clock = clock
        self._stats: tuple[float, BackendStats] | None = None
        self._changed = False
        self.work = Turns(WORK_THREADS, f"{self.name}-work")
        self.attach = Turns(ATTACH_THREADS, f"{self.name}-attach")
        self.detach = Turns(DETACH_THREADS, f"{self.name}-detach")
        self.questions = Turns(QUESTION_THREADS, f"{self.name}-questions")

    def stats(self) -> BackendStats:
        """The backend's statistics, at most :data:`STATS_SECONDS` old.

        Asked anew after something was made or removed.  Two threads may both ask:
        that is cheaper than a lock held over a call to the backend.

        :raises BackendUnavailable: the backend does not answer.
        """
        known = self._recent()
        if known is None or self._changed:
            now = self._clock()
            self._changed = False  # before it is asked: what is made meanwhile counts
            try:
                known = driver_call("statistics", lambda: self.manager.stats(refresh=True))
            except CinderCSIError:
                self._changed = True
                raise
            self._stats = (now, known)
        return known

    def planning_stats(self) -> BackendStats:
        """Statistics to plan with: what is made or removed need not be in them yet.

        Some arrays take seconds to answer, and every create would wait after another.
        Free room only matters for the choice among several pools: then as :meth:`stats`.

        :raises BackendUnavailable: the backend does not answer.
        """
        known = self._recent()
        return self.stats() if known is None or len(known.pools) > 1 else known

    @property
    def told_multiattach(self) -> bool | None:
        """Whether volumes can be attached to several hosts, as last told; None: never told."""
        return None if self._stats is None else self._stats[1].multiattach

    def _recent(self) -> BackendStats | None:
        known = self._stats
        if known is None or self._clock() - known[0] > STATS_SECONDS:
            return None
        return known[1]

    def forget_stats(self) -> None:
        """Let :meth:`stats` ask the backend again: something was made or removed."""
        self._changed = True

    def accessible_from(self) -> tuple[Topology, ...]:
        """Topologies that reach the backend; empty when every node does.

        A backend of one host is reached by the nodes that registered with that
        host name; before any has, by the node that is called like the host.
        """
        host = self.manager.accessible_from_host
        if host is None:
            return ()
        segments = [
            node.topology for node in self._nodes.nodes() if node.connector.get("host") == host
        ]
        unique = {tuple(sorted(s.items())) for s in segments if s} or {
            ((self._topology_key, host),)
        }
        return tuple(Topology(segments=dict(items)) for items in sorted(unique))

    def close(self) -> None:
        """Let the threads end; work that runs is not waited for."""
        for turns in (self.work, self.attach, self.detach, self.questions):
            turns.shutdown(wait=False, cancel_futures=True)


class Backends:
    """The backends by name; the first is the default."""

    def __init__(self, backends: Sequence[ControllerBackend]) -> None:
        if not backends:
            raise ConfigurationError(
                "No backend is configured", advice="Configure at least one backend"
            )
        self._backends = {backend.name: backend for backend in backends}

    def __iter__(self) -> Iterator[ControllerBackend]:
        return iter(self._backends.values())

    def named(self, name: str) -> ControllerBackend:
        """The backend of a request; '' is the default one.

        :raises InvalidRequest: there is no backend of this name.
        """
        if not name:
            return next(iter(self._backends.values()))
        backend = self._backends.get(name)
        if backend is None:
            raise InvalidRequest(
                f"There is no backend {name!r}",
                advice=f"Backends: {', '.join(sorted(self._backends))}",
            )
        return backend

    def of_record(self, name: str) -> ControllerBackend:
        """The backend that a record names.

        :raises BackendUnavailable: it is not configured any more.
        """
        backend = self._backends.get(name)
        if backend is None:
            raise errors.BackendUnavailable(
                f"Backend {name!r} is not configured in this process",
                advice="Configure it again: objects recorded here live on it",
            )
        return backend


class DriverCallFailed(Exception):
    """Internal to this room: a driver call failed; the use case decides what that means."""

    def __init__(self, action: str, failure: Failure) -> None:
        super().__init__(f"{action}: {failure.message}")
        self.action = action
        self.failure = failure


def attempt(action: str, call: Callable[[], T]) -> T:
    """Call a driver; whatever it raises becomes a classified failure.

    :raises DriverCallFailed: with the classification.
    """
    try:
        return call()
    except BaseException as error:  # drivers raise anything, SystemExit too; classify() knows
        raise DriverCallFailed(action, classify(error)) from error


def driver_call(action: str, call: Callable[[], T]) -> T:
    """Call a driver for something that leaves no trace on the backend.

    :raises CinderCSIError: the failure as an error of this room.
    """
    try:
        return attempt(action, call)
    except DriverCallFailed as failed:
        raise as_error(failed) from failed


_ERRORS: dict[FailureKind, type[CinderCSIError]] = {
    FailureKind.NO_SPACE: errors.BackendNoSpace,
    FailureKind.BUSY: errors.BackendRefused,
    FailureKind.CONNECTOR_REFUSED: errors.BackendRefused,
    FailureKind.INVALID: errors.BackendRefused,
    FailureKind.NOT_SUPPORTED: errors.BackendUnsupported,
    FailureKind.UNAVAILABLE: errors.BackendUnavailable,
    FailureKind.TIMEOUT: errors.BackendUnavailable,
}


def as_error(failed: DriverCallFailed) -> CinderCSIError:
    """The final error for a failure of which nothing is left on the backend."""
    kind = _ERRORS.get(failed.failure.kind, errors.BackendFailed)
    return kind(f"{failed.action} failed: {failed.failure.message}")
