"""What Cinder's manager adds to a driver's connection info, and what the info tells.  Pure.

What is added is called for by :mod:`csi_driver.cinderlib.manager` after
``initialize_connection``; source: ``VolumeManager._parse_connection_options`` and
``_set_connection_block_size``.  The rest is for ``connection``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from csi_driver.cinderlib.persistence.records import VolumeRecord

_PER_GIB = (
    "read_iops_sec",
    "read_bytes_sec",
    "write_iops_sec",
    "write_bytes_sec",
    "total_iops_sec",
    "total_bytes_sec",
)

_BLOCK_SIZES = {"512": ("512", "512"), "512e": ("4096", "512"), "4k": ("4096", "4096")}
"""``disk_geometry`` -> physical and logical block size, as text like in Cinder."""


def completed(
    info: Mapping[str, Any],
    volume: VolumeRecord,
    connector: Mapping[str, Any],
    *,
    read_only: bool,
    option: Callable[[str], Any],
) -> dict[str, Any]:
    """The connection info with everything that a host needs to know.

    :param info: what the driver returned: ``driver_volume_type`` and ``data``.
    :param option: reads one of the backend's options; None where there is none.
    """
    data = dict(info["data"])
    data["qos_specs"] = front_end_qos(volume.qos_specs, volume.size_gib)
    data["access_mode"] = "ro" if read_only else "rw"
    if data.get("encrypted") is None:
        data["encrypted"] = volume.encryption is not None
    data["cacheable"] = _cacheable(data.get("cacheable"), volume.extra_specs)
    if data.get("discard") is None and option("report_discard_supported"):
        data["discard"] = True
    if "physical_block_size" not in data and "logical_block_size" not in data:
        sizes = _BLOCK_SIZES.get(option("disk_geometry") or "")
        if sizes:
            data["physical_block_size"], data["logical_block_size"] = sizes
    data["enforce_multipath"] = bool(connector.get("enforce_multipath", False))
    return {**info, "data": data}


class Connector(dict[str, Any]):
    """The properties of a host, and through its attributes os-brick's connector object.

    :param make: makes that object, at its first use: ``connect_volume`` and its like.
    """

    def __init__(self, properties: Mapping[str, Any], make: Callable[[], Any]) -> None:
        super().__init__(properties)
        self._make = make

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._make(), name)


def has_several_paths(info: Mapping[str, Any]) -> bool:
    """Whether connection info names more than one way to the volume."""
    data = info.get("data", {})
    ways = [data.get(name) for name in ("target_portals", "target_wwn", "target_wwns", "portals")]
    return any(isinstance(way, (list, tuple)) and len(way) > 1 for way in ways)


def front_end_qos(qos: Mapping[str, str], size_gib: int) -> dict[str, Any] | None:
    """The limits that the host is to enforce; None when the array does, or nobody.

    Limits per GiB become limits of the volume, within their minimum and maximum.
    """
    if qos.get("consumer") not in ("front-end", "both"):
        return None
    specs: dict[str, Any] = {key: value for key, value in qos.items() if key != "consumer"}
    for name in _PER_GIB:
        if f"{name}_per_gb" not in specs:
            continue
        least = int(specs.pop(f"{name}_per_gb_min", 0))
        wanted = max(least, int(specs.pop(f"{name}_per_gb")) * size_gib)
        specs[name] = min(wanted, int(specs.pop(f"{name}_max", wanted)))
    return specs


def _cacheable(driver_says: Any, extra_specs: Mapping[str, str]) -> bool:
    allowed = extra_specs.get("cacheable") == "<is> True"
    # The driver's False stands; its True needs the type's consent.
    return allowed if driver_says is None else bool(driver_says) and allowed
