"""The fields of volumes and snapshots by the names that Cinder gives them.

Base classes of :class:`csi_driver.cinderlib.volume.Volume` and
:class:`csi_driver.cinderlib.snapshot.Snapshot`.  Names of ours (``name``, ``size``, ...)
stand beside them.  What can be assigned is stored by ``save()``.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Mapping
from typing import Any, Never

from csi_driver.cinderlib import session
from csi_driver.cinderlib.entity import Entity
from csi_driver.cinderlib.exceptions import InvalidVolume
from csi_driver.cinderlib.persistence.records import Phase, SnapshotRecord, VolumeRecord
from csi_driver.cinderlib.runtime import rows


class Fixed(dict[str, Any]):
    """A dictionary that is read only: a change would be lost, so it is refused."""

    def _refuse(self, *_: Any, **__: Any) -> Never:
        raise TypeError("This is a copy: assign a new dictionary to the field, then call save()")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse


class _Common(Entity[Any]):
    """What volumes and snapshots have both."""

    def __getattr__(self, name: str) -> Any:
        # Only for what is not found: provider_auth, replication_status, ...
        if name in rows.PROVIDER_FIELDS and "_record" in self.__dict__:
            return self._record.provider.get(name)
        raise AttributeError(f"A {type(self).__name__.lower()} has no field {name!r}")

    @property
    def user_id(self) -> str:
        """The user that drivers see."""
        return session.current().settings.user_id

    @property
    def project_id(self) -> str:
        """The project that drivers see."""
        return session.current().settings.project_id

    @property
    def name(self) -> str:
        """The name given to the object; may be assigned."""
        return str(self._value("name"))

    @name.setter
    def name(self, value: str) -> None:
        self._assign("name", _text("name", value))

    @property
    def description(self) -> str:
        """The description given to the object; may be assigned."""
        return str(self._value("description"))

    @description.setter
    def description(self, value: str) -> None:
        self._assign("description", _text("description", value))

    display_name = name
    display_description = description

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata; a whole dictionary may be assigned."""
        return Fixed(self._value("metadata"))

    @metadata.setter
    def metadata(self, value: Mapping[str, str]) -> None:
        self._assign("metadata", texts("metadata", value))

    @property
    def deleted(self) -> bool:
        """Whether the object was deleted with this instance, or is known to be."""
        return self._gone

    @property
    def deleted_at(self) -> datetime.datetime | None:
        """When it was deleted, in UTC."""
        return self._deleted_at

    @property
    def previous_status(self) -> str | None:
        """The status before the last change that this instance knows of."""
        return self._previous_status

    @property
    def volume_type(self) -> rows.Row:
        """The specs as a volume type: ``extra_specs``, ``qos_specs.specs``, ``name``, ``id``.

        Equal specs are the same type; ``qos_specs`` is None without any.
        """
        return rows.type_of(self._type_record())

    @property
    def volume_type_id(self) -> str:
        """The id of :attr:`volume_type`."""
        return str(self.volume_type["id"])

    def _type_record(self) -> VolumeRecord:
        raise NotImplementedError


class VolumeFields(_Common):
    """The fields of a volume."""

    _record: VolumeRecord

    FIELDS = (
        "id",
        "user_id",
        "project_id",
        "snapshot_id",
        "source_volid",
        "host",
        "size",
        "availability_zone",
        "status",
        "previous_status",
        "attach_status",
        "created_at",
        "launched_at",
        "deleted",
        "deleted_at",
        "display_name",
        "display_description",
        "bootable",
        "metadata",
        "admin_metadata",
        "multiattach",
        "volume_type",
        "volume_type_id",
        "name_in_storage",
        "provider_location",
        "provider_id",
    )

    @property
    def size(self) -> int:
        """Size in GiB."""
        return self._record.size_gib

    @property
    def pool_name(self) -> str:
        """The pool; '' until the volume is made."""
        return self._record.pool

    @property
    def host(self) -> str:
        """``HOST@BACKEND#POOL``, as Cinder has it."""
        place = f"{session.current().settings.host}@{self._record.backend}"
        return f"{place}#{self.pool_name}" if self.pool_name else place

    @property
    def availability_zone(self) -> str:
        """The availability zone, '' without one."""
        return self._record.availability_zone

    @property
    def bootable(self) -> bool:
        """Whether the volume was said to be bootable."""
        return self._record.bootable

    @property
    def multiattach(self) -> bool:
        """Whether the volume was made for several hosts at a time."""
        return self._record.multiattach

    @property
    def admin_metadata(self) -> dict[str, str]:
        """Metadata that drivers keep for themselves."""
        return Fixed(self._record.admin_metadata)

    @property
    def snapshot_id(self) -> str | None:
        """The snapshot that the volume was made from."""
        return self._source_id("snapshot")

    @property
    def source_volid(self) -> str | None:
        """The volume that the volume was cloned from."""
        return self._source_id("volume")

    @property
    def launched_at(self) -> datetime.datetime | None:
        """When the volume was made; None until it exists."""
        return None if self._record.phase is Phase.CREATING else self.created_at

    def _source_id(self, kind: str) -> str | None:
        source = self._record.source
        return source.id if source is not None and source.kind == kind else None

    def _type_record(self) -> VolumeRecord:
        return self._record


class SnapshotFields(_Common):
    """The fields of a snapshot."""

    _record: SnapshotRecord

    FIELDS = (
        "id",
        "user_id",
        "project_id",
        "volume_id",
        "volume_size",
        "status",
        "previous_status",
        "created_at",
        "deleted",
        "deleted_at",
        "display_name",
        "display_description",
        "metadata",
        "name_in_storage",
        "provider_location",
        "provider_id",
    )

    @property
    def volume_id(self) -> str:
        """The id of the volume."""
        return self._record.volume_id

    @property
    def volume_size(self) -> int:
        """Size of the volume at the cut, in GiB."""
        return self._record.size_gib


def checked_id(given: str | None) -> str:
    """The id given to an object, or a new one.

    :raises InvalidVolume: it is no UUID, and setup's ``non_uuid_ids`` is off.
    """
    if given is None:
        return str(uuid.uuid4())
    try:
        if not session.current().options.non_uuid_ids:
            uuid.UUID(given)
    except (ValueError, AttributeError, TypeError):
        raise InvalidVolume(
            f"The id {given!r} is no UUID",
            advice="Ids of other kinds need setup(non_uuid_ids=True)",
        ) from None
    return given


def texts(field: str, value: Any) -> dict[str, str]:
    """The value, proved to be a dictionary of text.

    :raises InvalidVolume: it is not.
    """
    if not isinstance(value, Mapping) or not all(
        isinstance(part, str) for pair in value.items() for part in pair
    ):
        raise InvalidVolume(f"The {field} {value!r} is not a dictionary of text")
    return dict(value)


def _text(field: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidVolume(f"The {field} {value!r} is not text")
    return value
