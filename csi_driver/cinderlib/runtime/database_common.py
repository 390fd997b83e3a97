"""What the functions of the stand-in database share: errors, and who is asking."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any

from csi_driver.cinderlib.exceptions import NotProvided
from csi_driver.cinderlib.runtime import rows
from csi_driver.cinderlib.runtime.directory import directory
from csi_driver.cinderlib.runtime.rows import Row


def asking_driver() -> str:
    """The class of the driver whose method is on the stack, for a message."""
    frame = inspect.currentframe()
    while frame is not None:
        holder = frame.f_locals.get("self")
        base: Any = getattr(sys.modules.get("cinder.volume.driver"), "BaseVD", None)
        if base is not None and isinstance(holder, base):
            return f"{type(holder).__module__}.{type(holder).__qualname__}"
        frame = frame.f_back
    return "no driver"


def present(kind: str, cinder_id: str, row: Row | None) -> Row:
    """The row; Cinder's NotFound of its kind when there is none."""
    if row is None:
        parameter = f"{kind.lower()}_id"
        raise cinder_exception(f"{kind}NotFound", **{parameter: cinder_id})
    return row


def cinder_exception(name: str, **details: str) -> Exception:
    """One of Cinder's exceptions: drivers catch those, so the database raises those."""
    from cinder import exception

    error: Exception = getattr(exception, name)(**details)
    return error


def refuse_filters(name: str, filters: Any) -> None:
    """Refuse to list by filters, which nothing here evaluates."""
    if filters:
        raise NotProvided(f"cinder.db.api.{name} has no filters here; {asking_driver()} asked")


def update_pairs(
    kind: str, cinder_id: str, column: str, metadata: Mapping[str, str], delete: bool
) -> dict[str, str]:
    """Change metadata of an object; ``delete`` drops the keys that are not named."""
    row = directory.change(
        kind,
        cinder_id,
        lambda row: {column: rows.merged(row[column], metadata, replace=delete)},
    )
    return rows.dictionary(present(kind, cinder_id, row)[column])


def drop_pair(kind: str, cinder_id: str, column: str, key: str) -> None:
    """Drop one key of an object's metadata."""
    row = directory.change(
        kind, cinder_id, lambda row: {column: [pair for pair in row[column] if pair["key"] != key]}
    )
    present(kind, cinder_id, row)


def named_volume(row: Row) -> Row:
    """A volume's row with what Cinder's model computes: ``name`` and ``name_id``."""
    from oslo_config import cfg

    name_id = row["_name_id"] or row["id"]
    return Row(row, name_id=name_id, name=cfg.CONF.volume_name_template % name_id)


def named_snapshot(row: Row) -> Row:
    """A snapshot's row with what Cinder's model computes: its names."""
    from oslo_config import cfg

    return Row(
        row,
        name=cfg.CONF.snapshot_name_template % row["id"],
        volume_name=named_volume(row["volume"])["name"],
    )


def type_by_id(type_id: str | None) -> Row | None:
    """The type with this id among those seen so far."""
    return next((row for row in directory.types() if row["id"] == type_id), None)
