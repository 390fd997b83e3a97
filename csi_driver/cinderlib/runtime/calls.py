"""The objects of one driver call: their records, their rows, and what the driver gets.

Used by :mod:`csi_driver.cinderlib.manager`, one :class:`Call` around each call of a
driver.  While it lasts the rows are held in the directory, so that whatever the
driver saves, reloads or looks up is the same object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, TypeVar

from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    GroupRecord,
    GroupSnapshotRecord,
    SnapshotRecord,
    VolumeRecord,
)
from csi_driver.cinderlib.runtime import ovo, rows
from csi_driver.cinderlib.runtime.directory import (
    GROUP,
    GROUP_SNAPSHOT,
    SNAPSHOT,
    VOLUME,
    Key,
    Member,
    directory,
)

R = TypeVar("R", VolumeRecord, SnapshotRecord, GroupRecord, GroupSnapshotRecord)


@dataclass(frozen=True)
class Part(Generic[R]):
    """One object of a call: ``object`` is what the driver gets."""

    record: R
    row: rows.Row
    before: rows.Row
    object: Any

    def changed(self) -> R:
        """The record with what the driver made of it."""
        return rows.changed(self.record, self.row)


class Call:
    """A context manager; objects are added inside it, first the one the call is about.

    The caller stores that one, and those added as ``own``.  What the driver saved of the
    others goes to the lookup when the call ends, whether it failed or not.
    """

    def __init__(self, member: Member) -> None:
        self.context = ovo.request_context()
        self._member = member
        self._held: list[tuple[Key, rows.Row]] = []
        self._parts: list[Part[Any]] = []

    def volume(
        self,
        record: VolumeRecord,
        connections: Sequence[ConnectionRecord] | None = None,
        *,
        own: bool = False,
    ) -> Part[VolumeRecord]:
        """Add a volume; its connections come from the lookup unless given."""
        row = self._member.volume_row(record, connections)
        self._hold(VOLUME, row)
        part = Part(record, row, rows.Row(row), ovo.volume(self.context, row))
        if not own:
            self._parts.append(part)
        return part

    def group(self, record: GroupRecord) -> Part[GroupRecord]:
        """Add a group, which the caller stores."""
        row = self._member.group_row(record)
        self._hold(GROUP, row)
        return Part(record, row, rows.Row(row), ovo.group(self.context, row))

    def group_snapshot(
        self, record: GroupSnapshotRecord, group: GroupRecord
    ) -> Part[GroupSnapshotRecord]:
        """Add a group snapshot, which the caller stores."""
        row = self._member.group_snapshot_row(record, group)
        self._hold(GROUP_SNAPSHOT, row)
        return Part(record, row, rows.Row(row), ovo.group_snapshot(self.context, row))

    def snapshot(
        self, record: SnapshotRecord, volume: VolumeRecord | None = None, *, own: bool = False
    ) -> Part[SnapshotRecord]:
        """Add a snapshot; its volume comes from the lookup unless given."""
        row = self._member.snapshot_row(record, volume)
        self._hold(SNAPSHOT, row)
        part = Part(record, row, rows.Row(row), ovo.snapshot(self.context, row))
        if not own:
            self._parts.append(part)
        return part

    def _hold(self, kind: str, row: rows.Row) -> None:
        self._held.append((directory.hold(kind, row), row))

    def __enter__(self) -> Call:
        self._member.permit()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        directory.release(self._held)
        for part in self._parts[1:]:
            if part.row != part.before:
                self._member.lookup.save(part.changed())
