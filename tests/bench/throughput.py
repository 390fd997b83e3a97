"""What calls cost in CPU, and how many of them go through, beside a bare gRPC server."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from csi_driver.rpc.client import Client
from tests.bench import calls
from tests.bench.figures import Figure
from tests.bench.processes import Subject, bare, serving

ROUNDS = 5
PROBES = 1000
PAIRS = 200
CLIENTS = 16
WARM_UP = 50


def cpu_per_call() -> Iterator[Figure]:
    """CPU of Probe and of CreateVolume with DeleteVolume, on the memory store."""
    with (
        TemporaryDirectory() as directory,
        serving(Path(directory), role="controller", store="memory") as driver,
        bare() as other,
    ):
        for subject in (driver, other):
            calls.repeat(calls.pair, subject.client, WARM_UP)
        own, beside = _alternating(driver, other, calls.probe, PROBES)
        yield Figure(
            name="CPU of Probe",
            setting="controller, memory, 1 client",
            value=own,
            unit="ms",
            bound=0.3,
            beside=beside,
        )
        for clients, bound in ((1, 2.0), (CLIENTS, None)):
            own, beside = _alternating(driver, other, calls.pair, PAIRS, clients)
            yield Figure(
                name="CPU of CreateVolume and DeleteVolume",
                setting=f"controller, memory, {clients} client{'s' if clients > 1 else ''}",
                value=own,
                unit="ms",
                bound=bound,
                beside=beside,
            )


def pairs_per_second() -> Iterator[Figure]:
    """CreateVolume with DeleteVolume by 16 clients, each change flushed to disk."""
    with TemporaryDirectory() as directory, serving(Path(directory)) as driver, bare() as other:
        rates: list[list[float]] = [[], []]
        used = 0.0
        for subject in (driver, other):
            calls.repeat(calls.pair, subject.client, WARM_UP, CLIENTS)
        for _ in range(ROUNDS):
            before = driver.cpu_seconds()
            for subject, rate in zip((driver, other), rates, strict=True):
                rate.append(_made() / calls.repeat(calls.pair, subject.client, _made(), CLIENTS))
            used += driver.cpu_seconds() - before
    yield Figure(
        name="CreateVolume and DeleteVolume, pairs per second",
        setting=f"all, db with synchronous FULL, {CLIENTS} clients",
        value=statistics.median(rates[0]),
        unit="/s",
        bound=250,
        at_least=True,
        beside=statistics.median(rates[1]),
    )
    yield Figure(
        name="CPU of CreateVolume and DeleteVolume",
        setting=f"all, db, {CLIENTS} clients",
        value=used / (ROUNDS * _made()) * 1000,
        unit="ms",
    )


def _made() -> int:
    """Pairs in a round: the same number for every client."""
    return 2 * PAIRS // CLIENTS * CLIENTS


def _alternating(
    driver: Subject,
    other: Subject,
    call: Callable[[Client], object],
    times: int,
    clients: int = 1,
) -> tuple[float, float]:
    """Median CPU in ms of a call, of the driver and of the other, measured in turns."""
    used: tuple[list[float], list[float]] = ([], [])
    times = times // clients * clients
    for _ in range(ROUNDS):
        for subject, spent in zip((driver, other), used, strict=True):
            before = subject.cpu_seconds()
            calls.repeat(call, subject.client, times, clients)
            spent.append((subject.cpu_seconds() - before) / times * 1000)
    return statistics.median(used[0]), statistics.median(used[1])
