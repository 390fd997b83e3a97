"""Whether a change may be made: the one decision about versions, shared by the stores.

A version is given out once in the life of a store, not once per record: a record
that was deleted and made anew never carries a version that an older copy has.
"""

from __future__ import annotations

from csi_driver.cinderlib.persistence.records import Record
from csi_driver.cinderlib.persistence.store import RecordConflict, RecordExists


def why_not_put(record: Record, stored: int | None) -> RecordConflict | None:
    """Why ``record`` may not be stored over version ``stored`` (None: no record), or None."""
    label = f"The {record.KIND} record {record.id!r}"
    if record.version == 0:
        return None if stored is None else RecordExists(f"{label} exists already")
    if stored is None:
        return RecordConflict(f"{label} is gone")
    return _unless_equal(record, stored)


def why_not_delete(record: Record, stored: int | None) -> RecordConflict | None:
    """Why ``record`` may not be removed while version ``stored`` is kept, or None."""
    return None if stored is None else _unless_equal(record, stored)


def _unless_equal(record: Record, stored: int) -> RecordConflict | None:
    if record.version == stored:
        return None
    return RecordConflict(
        f"The {record.KIND} record {record.id!r} was changed meanwhile:"
        f" its version is {stored}, not {record.version}"
    )
