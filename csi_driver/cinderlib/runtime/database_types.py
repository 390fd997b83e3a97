"""The stand-in database's functions on volume types and quality of service.

Collected by ``database``; each has the name and the parameters of Cinder's function.
A type has no record: it is made from the specs of the volumes that have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from csi_driver.cinderlib.runtime import database_common as common
from csi_driver.cinderlib.runtime.directory import directory
from csi_driver.cinderlib.runtime.rows import Row


def volume_type_get(
    _context: Any,
    id: str,
    inactive: bool = False,
    expected_fields: Any = None,
) -> Row:
    """A volume type, made from the specs of the volumes that have it."""
    found = common.type_by_id(id)
    if found is None:
        raise common.cinder_exception("VolumeTypeNotFound", volume_type_id=id)
    return Row(found)


def volume_type_get_by_name(_context: Any, name: str, inactive: bool = False) -> Row:
    """The volume type with this name."""
    for row in directory.types():
        if row["name"] == name:
            return Row(row)
    raise common.cinder_exception("VolumeTypeNotFoundByName", volume_type_name=name)


def volume_type_get_all(_context: Any, *_args: Any, **_kwargs: Any) -> dict[str, Row]:
    """Every volume type seen so far, by name."""
    return {row["name"]: Row(row) for row in directory.types()}


def volume_type_extra_specs_get(_context: Any, volume_type_id: str) -> dict[str, str]:
    """The extra specs of a volume type."""
    return dict(volume_type_get(None, volume_type_id)["extra_specs"])


def volume_type_qos_specs_get(_context: Any, type_id: str) -> dict[str, Any]:
    """The quality of service of a volume type.

    A copy, with the columns of Cinder's answer: ``volume_types_diff`` takes it apart and
    compares all that is left.
    """
    qos = volume_type_get(None, type_id)["qos_specs"]
    if qos is None:
        return {"qos_specs": None}
    columns = ("id", "name", "consumer", "created_at")
    return {"qos_specs": {**{name: qos[name] for name in columns}, "specs": dict(qos["specs"])}}


def volume_type_access_get_all(_context: Any, _type_id: str) -> Sequence[Row]:
    """Types are public."""
    return []


def volume_type_encryption_get(
    _context: Any, volume_type_id: str, session: Any = None
) -> Row | None:
    """The encryption specs of a volume type; None when it has none."""
    found = common.type_by_id(volume_type_id)
    specs = found["encryption"] if found else None
    return Row(specs) if specs else None


def qos_specs_get(_context: Any, qos_specs_id: str, inactive: bool = False) -> Row:
    """Quality of service by its id."""
    for row in directory.types():
        if row["qos_specs_id"] == qos_specs_id:
            return Row(row["qos_specs"])
    raise common.cinder_exception("QoSSpecsNotFound", specs_id=qos_specs_id)
