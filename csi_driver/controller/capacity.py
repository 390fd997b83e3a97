"""Sizes: from a CSI capacity range in bytes to Cinder's whole GiB.  Pure."""

from __future__ import annotations

from csi_driver.base.errors import InvalidRequest
from csi_driver.base.values import GIB
from csi_driver.controller.errors import CapacityOutOfRange

DEFAULT_GIB = 1
"""Size of a volume for which no size is asked, in GiB: Cinder's smallest."""

_MAX_BYTES = (1 << 63) - GIB


def check_range(required_bytes: int, limit_bytes: int) -> None:
    """Refuse ranges that no volume can satisfy (bytes; 0 means not given).

    :raises InvalidRequest: negative sizes.
    :raises CapacityOutOfRange: the limit is below the requirement.
    """
    if required_bytes < 0 or limit_bytes < 0:
        raise InvalidRequest(
            f"capacity_range holds a negative size ({required_bytes}, {limit_bytes})",
            advice="Sizes are bytes, greater than 0",
        )
    if required_bytes > _MAX_BYTES:
        raise CapacityOutOfRange(f"required_bytes {required_bytes} is more than any volume can be")
    if limit_bytes and limit_bytes < required_bytes:
        raise CapacityOutOfRange(
            f"limit_bytes {limit_bytes} is below required_bytes {required_bytes}",
            advice="Raise the limit or lower the requirement",
        )


def size_for(required_bytes: int, limit_bytes: int, source_gib: int = 0) -> int:
    """The size of a new volume in GiB: the smallest that satisfies the range.

    :param source_gib: size of the source; without a requirement the volume gets it.
    :raises InvalidRequest: negative sizes.
    :raises CapacityOutOfRange: no whole number of GiB lies in the range, or the
        range lies below the size of the source.
    """
    check_range(required_bytes, limit_bytes)
    size = max(-(-required_bytes // GIB), source_gib or (0 if required_bytes else DEFAULT_GIB))
    if source_gib and 0 < required_bytes < source_gib * GIB:
        raise CapacityOutOfRange(
            f"required_bytes {required_bytes} is less than the source's {source_gib * GIB}",
            advice="A volume made from a source is at least as large as it",
        )
    if limit_bytes and size * GIB > limit_bytes:
        raise CapacityOutOfRange(
            f"The volume would have {size} GiB ({size * GIB} bytes), more than limit_bytes"
            f" {limit_bytes}: sizes are whole GiB",
            advice=f"Raise the limit to at least {size * GIB} bytes",
        )
    return size


def satisfies(size_gib: int, required_bytes: int, limit_bytes: int) -> bool:
    """Whether a volume of this size is within the range."""
    size = size_gib * GIB
    return size >= required_bytes and (not limit_bytes or size <= limit_bytes)
