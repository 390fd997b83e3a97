"""A backend's statistics in one shape, whatever the driver's are.  Pure.

Called by :mod:`csi_driver.cinderlib.manager`; read by ``controller`` (capacity, limits)
and by users of :meth:`csi_driver.cinderlib.backend.Backend.stats`.  Drivers answer with
pools or, older ones, without; with numbers, text, ``'infinite'`` or ``'unknown'``.

Capacities are GiB as float.  None means that the driver gives no figure: it said
``'infinite'`` or ``'unknown'``, or nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_OVER_SUBSCRIPTION = 20.0
"""Cinder's default of ``max_over_subscription_ratio``, and where ``'auto'`` begins."""

_OF_BACKEND = frozenset(
    {
        "driver_version",
        "pools",
        "shared_targets",
        "sparse_copy_volume",
        "storage_protocol",
        "vendor_name",
        "volume_backend_name",
    }
)


@dataclass(frozen=True)
class PoolStats:
    """One pool.

    :param provisioned_gib: sum of the sizes of its volumes, as far as the driver knows.
    :param thin: whether volumes take space only as they are written.
    :param reserved_percentage: share of the total that is kept free.
    :param max_over_subscription: how often a thin pool may be promised.
    :param location_info: what the driver says of its place, often host-local.
    """

    name: str
    total_gib: float | None
    free_gib: float | None
    provisioned_gib: float | None = None
    thin: bool = False
    reserved_percentage: int = 0
    max_over_subscription: float = MAX_OVER_SUBSCRIPTION
    multiattach: bool = False
    location_info: str = ""

    @property
    def available_gib(self) -> float | None:
        """What new volumes may take now, in GiB; None when no figure is known.

        Cinder's scheduler computes it so (``calculate_virtual_free_capacity``):
        a thin pool may be promised several times over, a thick one has what is free.
        """
        if self.total_gib is None or self.free_gib is None:
            return self.free_gib
        if self.thin and self.provisioned_gib is not None:
            promised = self.provisioned_gib
            return max(0.0, self._usable_gib * self.max_over_subscription - promised)
        return max(0.0, self.free_gib - (self.total_gib - self._usable_gib))

    @property
    def largest_volume_gib(self) -> float | None:
        """The largest volume that the pool could ever hold, in GiB; None without a figure."""
        if self.total_gib is None:
            return None
        return self._usable_gib * (self.max_over_subscription if self.thin else 1.0)

    @property
    def _usable_gib(self) -> float:
        total = self.total_gib or 0.0
        return total - math.floor(total * self.reserved_percentage / 100.0)


@dataclass(frozen=True)
class BackendStats:
    """A backend's pools and what its driver says of itself."""

    name: str
    vendor: str
    driver_version: str
    protocol: str
    pools: tuple[PoolStats, ...] = field(default_factory=tuple)
    reported: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """What the driver said, with ``pools`` in any case; for reading."""

    @property
    def multiattach(self) -> bool:
        """Whether a volume of some pool can be attached to several hosts."""
        return any(pool.multiattach for pool in self.pools)


def normalised(backend: str, stats: Mapping[str, Any] | None) -> BackendStats:
    """The statistics that a driver's ``get_volume_stats`` returned.

    What a pool does not say, the backend says for it.
    """
    raw = with_pools(backend, stats)
    common = {key: value for key, value in raw.items() if key != "pools"}
    return BackendStats(
        name=str(raw.get("volume_backend_name") or backend),
        vendor=str(raw.get("vendor_name") or ""),
        driver_version=str(raw.get("driver_version") or ""),
        protocol=_protocol(raw.get("storage_protocol")),
        pools=tuple(_pool({**common, **pool}) for pool in raw["pools"]),
        reported=raw,
    )


def with_pools(backend: str, stats: Mapping[str, Any] | None) -> dict[str, Any]:
    """A copy of a driver's statistics, with the list ``pools``.

    A driver without pools (legacy) has one, called like the backend, with all that is not
    about the backend as a whole.
    """
    raw: dict[str, Any] = copied(stats or {})
    if not raw.get("pools"):
        pool = {key: value for key, value in raw.items() if key not in _OF_BACKEND}
        raw["pools"] = [{**pool, "pool_name": backend}]
    return raw


def copied(value: Any) -> Any:
    """A copy of nested dictionaries and lists; what is in them is shared."""
    if isinstance(value, Mapping):
        return {key: copied(inner) for key, inner in value.items()}
    return [copied(inner) for inner in value] if isinstance(value, list) else value


def _pool(raw: Mapping[str, Any]) -> PoolStats:
    total = _gib(raw.get("total_capacity_gb"))
    free = _gib(raw.get("free_capacity_gb"))
    provisioned = _gib(raw.get("provisioned_capacity_gb"))
    return PoolStats(
        name=str(raw["pool_name"]),
        total_gib=total,
        free_gib=free,
        provisioned_gib=provisioned,
        thin=_true(raw.get("thin_provisioning_support")),
        reserved_percentage=int(raw.get("reserved_percentage") or 0),
        max_over_subscription=_ratio(
            raw.get("max_over_subscription_ratio"), total, free, provisioned
        ),
        multiattach=_true(raw.get("multiattach")),
        location_info=str(raw.get("location_info") or ""),
    )


def _gib(value: Any) -> float | None:
    # 'infinite' and 'unknown' are Cinder's words; float() would take "infinity" too.
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _ratio(value: Any, total: float | None, free: float | None, provisioned: float | None) -> float:
    """``max_over_subscription_ratio``: a number, or 'auto', which follows what is used.

    'auto' is Cinder's formula (``calculate_max_over_subscription_ratio``).
    """
    if value == "auto":
        if not provisioned or total is None or free is None:
            return MAX_OVER_SUBSCRIPTION
        return 1 + provisioned / (total - free + 1)
    number = _gib(value)
    return number if number is not None and number >= 1 else MAX_OVER_SUBSCRIPTION


def _protocol(value: Any) -> str:
    # Newer drivers name several spellings of one protocol; the first is the usual one.
    if isinstance(value, (list, tuple)):
        return str(value[0]) if value else ""
    return str(value or "")


def _true(value: Any) -> bool:
    return value is True or str(value).strip().lower() in ("true", "<is> true")
