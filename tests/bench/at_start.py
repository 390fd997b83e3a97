"""What a process takes to start and to hold 1,000 volumes, and what it takes at rest."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench import calls
from tests.bench.figures import Figure
from tests.bench.processes import roomy, serving

STARTS = 3
VOLUMES = 1000
CLIENTS = 16
REST_SECONDS = 5.0


def first_volume() -> Iterator[Figure]:
    """CPU of a new process up to its first successful CreateVolume."""
    for role, store, bound in (("controller", "memory", 1.8), ("all", "db", 2.5)):
        used, took = zip(*(_first_volume(role, store) for _ in range(STARTS)), strict=True)
        setting = f"{role}, {store}"
        yield Figure(
            name="CPU up to the first CreateVolume after start",
            setting=setting,
            value=statistics.median(used),
            unit="s",
            bound=bound,
        )
        yield Figure(
            name="time up to the first CreateVolume after start",
            setting=setting,
            value=statistics.median(took),
            unit="s",
        )


def _first_volume(role: str, store: str) -> tuple[float, float]:
    with TemporaryDirectory() as directory:
        started = time.perf_counter()
        with serving(Path(directory), role=role, store=store) as subject:
            calls.create(subject.client)
            return subject.cpu_seconds(), time.perf_counter() - started


def memory_with_volumes() -> Iterator[Figure]:
    """Resident memory after 1,000 volumes, and the CPU of a process that nobody calls."""
    for role, store, bound in (("controller", "memory", 130), ("all", "db", 155)):
        with (
            TemporaryDirectory() as name,
            serving(Path(name), role=role, store=store, backend=roomy(Path(name))) as subject,
        ):
            calls.repeat(calls.create, subject.client, VOLUMES, CLIENTS)
            yield Figure(
                name="memory after 1,000 volumes",
                setting=f"{role}, {store}",
                value=subject.memory_mib(),
                unit="MiB",
                bound=bound,
            )
            before = subject.cpu_seconds()
            time.sleep(REST_SECONDS)
            yield Figure(
                name="CPU at rest with 1,000 volumes",
                setting=f"{role}, {store}",
                value=(subject.cpu_seconds() - before) / REST_SECONDS * 1000,
                unit="ms/s",
            )
