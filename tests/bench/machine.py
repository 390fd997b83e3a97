"""The machine that figures come from, in words: a figure means nothing without it."""

from __future__ import annotations

import os
import platform
import statistics
import time
import timeit
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

FLUSHES = 50
IDLE_SECONDS = 2.0

# Columns of the processors' line in /proc/stat, see proc_stat(5).
_IDLE, _WAITING, _STOLEN = 3, 4, 7

_PACKAGES = ("cinder", "grpcio", "SQLAlchemy")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A description, taken before anything is measured.

    ``idle_percent`` is the share of CPU time that nobody used just before: on a busy
    machine every figure is worse.  ``flush_ms`` is the median time of a 4 KiB append
    with fsync on the filesystem that holds the state.
    ``loop_ms`` is the least time of a million additions: interpreters of one version differ
    by half and more, by how they were built.  :class:`Meanwhile` tells how that goes on.
    """

    processors: str
    memory_gib: float
    system: str
    filesystem: str
    flush_ms: float
    interpreter: str
    loop_ms: float
    software: str
    idle_percent: float

    def lines(self) -> list[str]:
        """One fact per line."""
        return [
            f"{self.processors}, {self.memory_gib:.0f} GiB of memory, {self.system}",
            f"state on {self.filesystem}, where an append of 4 KiB with fsync takes"
            f" {self.flush_ms:.2f} ms",
            f"{self.interpreter}, in which a million additions take {self.loop_ms:.0f} ms",
            self.software,
            f"idle before the run: {self.idle_percent:.0f} %",
        ]


class Meanwhile:
    """What others did to the machine while it was measured.

    On a virtual machine the processors, their caches and their clock are shared with others
    whom nothing here can see: CPU times grow with them, by half at times.
    """

    def __init__(self) -> None:
        self._before = _processor_times()
        self._loops: list[float] = []

    def look(self) -> None:
        """Time the loop once more; between two parts of the measurement and after the last."""
        self._loops.append(_loop_ms())

    def line(self) -> str:
        """One fact, for the end."""
        spent = _spent_since(self._before)
        stolen = 100 * spent[_STOLEN] / sum(spent)
        return (
            f"during the run {stolen:.1f} % of the CPU time was stolen by the host, and a million"
            f" additions took {min(self._loops):.0f} to {max(self._loops):.0f} ms"
        )


def describe(directory: Path) -> Machine:
    """This machine; ``directory`` is where the state of the measured processes will be."""
    return Machine(
        processors=f"{os.cpu_count()} CPUs ({_cpu_model()})",
        memory_gib=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30),
        system=f"{platform.system()} {platform.release()}",
        filesystem=_filesystem(directory),
        flush_ms=_flush_ms(directory),
        interpreter=f"Python {platform.python_version()}",
        loop_ms=_loop_ms(),
        software=", ".join(f"{name} {version(name)}" for name in _PACKAGES),
        idle_percent=_idle_percent(),
    )


def _cpu_model() -> str:
    for text in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = text.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def _filesystem(directory: Path) -> str:
    """The type of the filesystem with the longest mount point above the directory."""
    found = {}
    for text in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = text.partition(" - ")
        if directory.is_relative_to(point := before.split()[4]):
            found[len(point)] = after.split()[0]
    return found[max(found)]


def _flush_ms(directory: Path) -> float:
    path = directory / "flush"
    took = []
    with path.open("wb", buffering=0) as file:
        for _ in range(FLUSHES):
            started = time.perf_counter()
            file.write(bytes(4096))
            os.fsync(file.fileno())
            took.append(time.perf_counter() - started)
    path.unlink()
    return statistics.median(took) * 1000


def _loop_ms() -> float:
    return min(timeit.repeat("total += each", "total, each = 0, 1", number=10**6, repeat=9)) * 1000


def _idle_percent() -> float:
    before = _processor_times()
    time.sleep(IDLE_SECONDS)
    spent = _spent_since(before)
    return 100 * (spent[_IDLE] + spent[_WAITING]) / sum(spent)


def _spent_since(before: list[int]) -> list[int]:
    return [later - earlier for earlier, later in zip(before, _processor_times(), strict=True)]


def _processor_times() -> list[int]:
    return [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
