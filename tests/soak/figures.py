"""What must not grow: samples of a process and its state directory, and what counts as flat."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from tests.support import state


@dataclass(frozen=True)
class Sample:
    """One look at the driver, after ``operations``.

    ``memory_mib`` is resident memory; ``log_mib`` the write-ahead log of the records.  Records of
    the memory store are in its memory, and 0 here.
    """

    operations: int
    memory_mib: float
    threads: int
    descriptors: int
    lock_files: int
    objects: int
    tombstones: int
    backend_files: int
    log_mib: float


@dataclass(frozen=True)
class Allowance:
    """How much more the last quarter may show than the second: a part of it, or so many."""

    part: float
    number: float


ALLOWED = {
    "memory_mib": Allowance(0.05, 4),
    # Pools start their threads one by one, whenever none is idle, up to their bounds.
    "threads": Allowance(0, 8),
    "descriptors": Allowance(0, 4),
    "lock_files": Allowance(0, 16),
    "objects": Allowance(0, 8),
    "tombstones": Allowance(0.5, 200),
    "backend_files": Allowance(0, 8),
    "log_mib": Allowance(0.5, 4),
}


def look(pid: int, directory: Path, store: str, operations: int) -> Sample:
    """A sample of the process and of its state directory."""
    status = Path(f"/proc/{pid}/status").read_text()
    figures = dict(line.split(":", 1) for line in status.splitlines())
    in_file = store == "db"
    log = directory / "records" / "records.sqlite-wal"
    return Sample(
        operations=operations,
        memory_mib=int(figures["VmRSS"].split()[0]) / 1024,
        threads=int(figures["Threads"]),
        descriptors=len(list(Path(f"/proc/{pid}/fd").iterdir())),
        lock_files=len(state.lock_files(directory)) + _files_below(directory / "locks"),
        objects=len(state.objects(directory)) if in_file else 0,
        tombstones=state.count(directory, "tombstone") if in_file else 0,
        backend_files=len(state.backend_files(directory)),
        log_mib=log.stat().st_size / (1 << 20) if in_file else 0.0,
    )


def growth(samples: Sequence[Sample]) -> list[str]:
    """What grew, in words; nothing when all is flat.  Pure.

    The medians of the second and of the last quarter are compared: in the first the process
    warms up, and a median does not mind what happened to be in flight at one look.

    :raises ValueError: fewer than eight samples say nothing.
    """
    if len(samples) < 8:
        raise ValueError(f"{len(samples)} samples are too few")
    quarter = len(samples) // 4
    found = []
    for name in [f.name for f in fields(Sample) if f.name in ALLOWED]:
        early = _median(samples[quarter : 2 * quarter], name)
        late = _median(samples[-quarter:], name)
        allowed = ALLOWED[name]
        if late > early + max(allowed.part * early, allowed.number):
            found.append(f"{name} grew from {early:g} to {late:g}")
    return found


def _median(samples: Sequence[Sample], name: str) -> float:
    return float(statistics.median(getattr(sample, name) for sample in samples))


def _files_below(directory: Path) -> int:
    return sum(path.is_file() for path in directory.rglob("*"))
