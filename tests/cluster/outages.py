"""The ways in which an API server is away, each as a context: of the server itself, or of a
proxy before it that spoils what passes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from tests.cluster.apiserver import ApiServer
from tests.cluster.fault_proxy import PASS, FaultProxy, Verdict

Outage = Callable[[ApiServer, FaultProxy], AbstractContextManager[None]]

SLOW_SECONDS = 2.0
"""Longer than a leader waits for a renewal of its Lease."""

_READS = ("GET",)


@contextlib.contextmanager
def stopped(server: ApiServer, proxy: FaultProxy) -> Iterator[None]:
    """The server's process is gone, and started again."""
    server.kill()
    try:
        yield
    finally:
        server.start()


@contextlib.contextmanager
def frozen(server: ApiServer, proxy: FaultProxy) -> Iterator[None]:
    """The server takes connections and answers nothing."""
    with server.frozen():
        yield


def slow(server: ApiServer, proxy: FaultProxy) -> AbstractContextManager[None]:
    """Every answer takes seconds."""
    return slowed(proxy, SLOW_SECONDS)


def slowed(proxy: FaultProxy, seconds: float) -> AbstractContextManager[None]:
    """Every answer takes so long."""
    return _spoiled(proxy, lambda verb, path: Verdict(until=_after(seconds)))


def busy(server: ApiServer, proxy: FaultProxy) -> AbstractContextManager[None]:
    """The server tells everybody to come back later."""
    verdict = Verdict(forward=False, status=429, retry_after="1")
    return _spoiled(proxy, lambda verb, path: verdict)


def failing(server: ApiServer, proxy: FaultProxy) -> AbstractContextManager[None]:
    """The server fails, after half of the writes were done."""
    count = iter(range(1 << 30))
    return _spoiled(
        proxy,
        lambda verb, path: Verdict(forward=verb in _READS or next(count) % 2 == 0, status=500),
    )


def losing(server: ApiServer, proxy: FaultProxy) -> AbstractContextManager[None]:
    """Writes are done, and nobody hears of it."""
    lost = Verdict(lose=True)
    return _spoiled(proxy, lambda verb, path: PASS if verb in _READS else lost)


def forbidding(server: ApiServer, proxy: FaultProxy) -> AbstractContextManager[None]:
    """The server refuses everybody, as one that has just started and knows no roles yet."""
    return _spoiled(proxy, lambda verb, path: Verdict(forward=False, status=403))


ALL: tuple[Outage, ...] = (stopped, frozen, slow, busy, failing, losing, forbidding)


def _after(seconds: float) -> threading.Event:
    """An event that comes after so long."""
    event = threading.Event()
    timer = threading.Timer(seconds, event.set)
    timer.daemon = True
    timer.start()
    return event


@contextlib.contextmanager
def _spoiled(proxy: FaultProxy, judge: Callable[[str, str], Verdict]) -> Iterator[None]:
    proxy.judge = judge
    proxy.cut()  # watches too have to come back and be judged
    try:
        yield
    finally:
        proxy.judge = lambda verb, path: PASS
