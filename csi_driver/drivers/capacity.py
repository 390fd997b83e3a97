"""How much room a directory of sparse files really has.  Pure.

A sparse file takes its blocks when they are written: the disk may be full when a
volume, long since handed out, writes.  So not only what is written counts, but
what was promised.

* The pool is what the files take now and what is free: other data on the same
  disk is not part of it.
* A volume is promised its whole size.  A snapshot never grows: it is promised the
  blocks that it has.
* New promises are made up to the pool less ``reserved_percentage`` of it, times
  ``max_over_subscription_ratio``.  With a ratio of 1 the volumes can be written
  full, all of them, unless others fill the disk.

Where files share blocks (reflink), the filesystem counts them once for each file:
the pool is then at most what the filesystem says is used and free.  On a disk
that holds much other data beside shared blocks this is too much by the shared
blocks; a directory on a disk of its own is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from csi_driver.base.values import GIB


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What was measured, in bytes.

    ``free`` is what an unprivileged user may still write, ``used`` what all files
    on the disk take; ``written`` what the volume files take, ``promised`` what
    they may come to take.
    """

    free: int
    used: int
    written: int
    promised: int


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Cinder's options ``max_over_subscription_ratio`` and ``reserved_percentage``."""

    ratio: float
    reserved_percentage: int


def total(usage: Usage) -> int:
    """Bytes that the volumes have and could have together."""
    return usage.free + min(usage.written, usage.used)


def available(usage: Usage, limits: Limits) -> int:
    """Bytes that may still be promised; 0 when more than that is promised already."""
    pool = total(usage)
    reserved = pool * limits.reserved_percentage // 100
    promisable = (pool - reserved) * limits.ratio - usage.promised
    writable = (usage.free - reserved) * limits.ratio
    return max(0, math.floor(min(promisable, writable)))


def gib(size: int) -> float:
    """Bytes as GiB with two digits, rounded down: what there is."""
    return math.floor(size * 100 / GIB) / 100


def gib_up(size: int) -> float:
    """Bytes as GiB with two digits, rounded up: what is needed or promised."""
    return math.ceil(size * 100 / GIB) / 100
