"""Which pool of a backend takes a volume.  Pure, over the backend's statistics."""

from __future__ import annotations

import math

from csi_driver.base.errors import InvalidRequest
from csi_driver.cinderlib.stats import BackendStats, PoolStats
from csi_driver.controller.errors import CapacityOutOfRange


def choose(stats: BackendStats, size_gib: int, wanted: str = "") -> str:
    """The pool for a volume of this size; '' for a backend that tells of none.

    Only what can never fit is refused here: whether there is room now is for the
    backend to say, whose figures are newer.

    :param wanted: the one pool that is allowed; '' takes the one with the most free room.
    :raises InvalidRequest: there is no such pool.
    :raises CapacityOutOfRange: larger than any pool could ever hold; names the largest size.
    """
    if not stats.pools:
        return wanted
    allowed = [pool for pool in stats.pools if wanted in ("", pool.name)]
    if not allowed:
        names = ", ".join(sorted(pool.name for pool in stats.pools))
        raise InvalidRequest(
            f"Backend {stats.name!r} has no pool {wanted!r}", advice=f"Pools: {names}"
        )
    fitting = [pool for pool in allowed if size_gib <= _largest(pool)]
    if not fitting:
        raise CapacityOutOfRange(
            f"{size_gib} GiB is beyond backend {stats.name!r}: its largest volume has"
            f" {int(max(_largest(pool) for pool in allowed))} GiB"
        )
    return max(fitting, key=_available).name


def _largest(pool: PoolStats) -> float:
    return math.inf if pool.largest_volume_gib is None else pool.largest_volume_gib


def _available(pool: PoolStats) -> float:
    return math.inf if pool.available_gib is None else pool.available_gib
