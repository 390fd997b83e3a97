"""Cinder's versioned objects for one driver call.

Used by :mod:`csi_driver.cinderlib.manager`.  Drivers take Volume, Snapshot and
VolumeAttachment objects, read any field, set some and save.  The objects are made by
Cinder's own code from the rows of ``rows``, so that no field is left unset (reading
an unset one raises), and their ``save`` lands in those rows.
"""

from __future__ import annotations

import copy
import datetime
import functools
from collections.abc import Callable, Mapping
from typing import Any

from csi_driver.base.masking import SECRETS
from csi_driver.cinderlib.runtime import bootstrap
from csi_driver.cinderlib.runtime.rows import Row, dictionary

_VOLUME_PARTS = (
    "metadata",
    "admin_metadata",
    "glance_metadata",
    "volume_type",
    "volume_type.extra_specs",
    "volume_attachment",
    "cluster",
)


def request_context() -> Any:
    """A request context of an administrator, with a request id of its own."""
    settings = bootstrap.active()
    return _contexts(settings.user_id, settings.project_id)()


@functools.cache
def _contexts(user_id: str, project_id: str) -> Callable[[], Any]:
    """Makes contexts: Cinder's code runs once, and each is a copy of what that made.

    ``is_admin`` has to be said: the context would ask the policy engine otherwise.
    ``overwrite=False`` leaves the thread's current context of oslo alone, if it has one.
    """
    from cinder import context
    from oslo_context import context as oslo_context
    from oslo_utils import timeutils

    kind: Any = context.RequestContext
    first = kind(user_id=user_id, project_id=project_id, is_admin=True, overwrite=False)
    # Copied, as the first may have become the thread's current context.
    kept = copy.deepcopy(vars(first))
    lists = [(name, value) for name, value in kept.items() if isinstance(value, list)]

    def make() -> Any:
        made = object.__new__(kind)
        made.__dict__ = attributes = kept.copy()
        attributes["request_id"] = oslo_context.generate_request_id()
        attributes["timestamp"] = timeutils.utcnow()
        for name, value in lists:
            attributes[name] = value.copy()
        if oslo_context.get_current() is None:
            made.update_store()
        return made

    return make


def volume(context: Any, row: Row) -> Any:
    """A ``cinder.objects.Volume`` with every field filled.

    Cinder's code sets and checks half a hundred fields, a good part of what creating
    and deleting a small volume costs.  So the first one of each volume type is kept, and
    those that are as plain (no attachment, no internal metadata, no group, no QoS) are
    copies of it, in which Cinder's code sets what differs.
    """
    volume_type = row["volume_type"]
    special = row["volume_attachment"] or row["volume_admin_metadata"] or row.get("group_id")
    if special or volume_type["qos_specs"]:
        return _volume_by_cinder(context, row)
    kept = _kept.get(volume_type["id"])
    if kept is None:
        kept = _columns_of(row), _volume_by_cinder(context, row)
        if len(_kept) >= _KEPT_TYPES:
            _kept.clear()
        _kept[volume_type["id"]] = kept
    return _volume_by_copy(context, row, *kept)


_kept: dict[str, tuple[tuple[Any, ...], Any]] = {}
"""By the id of a type, which is made from its content: the columns of a plain volume and its
object, which no driver has ever seen.  Whichever thread writes one last, it is as good."""

_KEPT_TYPES = 64

_AS_THEY_ARE = (str, int, datetime.datetime)
"""Types of which a field that has one value takes every other as it is in a row."""


def _volume_by_copy(context: Any, row: Row, kept_columns: tuple[Any, ...], kept: Any) -> Any:
    made = _copy_of(kept, context)
    # What the copy shares and somebody may change; the rest are plain values.
    metadata = dictionary(row["volume_metadata"])
    if metadata:
        made.metadata = metadata
    else:
        made._obj_metadata = _empty(kept._obj_metadata)
    made._obj_admin_metadata = _empty(kept._obj_admin_metadata)
    made._obj_glance_metadata = _empty(kept._obj_glance_metadata)
    # As Cinder's _reset_metadata_tracking() does.
    made._orig_metadata, made._orig_admin_metadata, made._orig_glance_metadata = metadata, {}, {}
    made._obj_volume_attachment = attachments = _copy_of(kept._obj_volume_attachment, context)
    attachments._obj_objects = _empty(attachments._obj_objects)
    made._obj_volume_type = volume_type = _copy_of(kept._obj_volume_type, context)
    if extra_specs := row["volume_type"]["extra_specs"]:
        volume_type.extra_specs = extra_specs
        volume_type._changed_fields.clear()
    else:
        volume_type._obj_extra_specs = _empty(volume_type._obj_extra_specs)
    attributes = vars(made)
    for name, known, value in zip(_column_names(), kept_columns, _columns_of(row), strict=True):
        if value == known:
            continue
        if type(value) is type(known) in _AS_THEY_ARE:
            attributes[f"_obj_{name}"] = value  # another text of a field that has a text
        else:
            made[name] = value
    # As obj_reset_changes() does, without its look at every field for objects inside.
    made._changed_fields.clear()
    return made


def _copy_of(versioned_object: Any, context: Any) -> Any:
    """A copy that shares the values of its fields, with nothing to save."""
    made: Any = object.__new__(type(versioned_object))
    made.__dict__ = {**versioned_object.__dict__, "_changed_fields": set(), "_context": context}
    return made


def _empty(collection: Any) -> Any:
    """An empty collection of the same kind, which checks in the same way what is put in.

    The object that it knows is the kept one, not its own: so that goes when the call ends,
    and not when the garbage collector finds the circle.
    """
    kind: Any = type(collection)
    made = kind.__new__(kind)
    made.__dict__ = collection.__dict__.copy()
    return made


def _columns_of(row: Row) -> tuple[Any, ...]:
    return tuple(map(row.get, _column_names()))


@functools.cache
def _column_names() -> tuple[str, ...]:
    from cinder import objects

    fields = objects.Volume.fields
    return tuple(name for name in fields if name not in objects.Volume.OPTIONAL_FIELDS)


def _volume_by_cinder(context: Any, row: Row) -> Any:
    from cinder import objects

    made = objects.Volume._from_db_object(context, objects.Volume(), row, list(_VOLUME_PARTS))
    return _completed(context, row, made)


def _completed(context: Any, row: Row, made: Any) -> Any:
    """The volume with what Cinder's code leaves out, and with nothing to save."""
    made.volume_type.qos_specs = _qos_specs(context, row["volume_type"])
    made.volume_type.obj_reset_changes()
    if not row.group_id:
        made.group = None  # else Cinder's code loads it when it is read
    made.consistencygroup = None
    made.obj_reset_changes()
    return made


def snapshot(context: Any, row: Row) -> Any:
    """A ``cinder.objects.Snapshot`` with every field and its volume filled."""
    from cinder import objects

    made = objects.Snapshot._from_db_object(context, objects.Snapshot(), row, ["metadata"])
    made.volume = volume(context, row["volume"])
    made.cgsnapshot = None
    if not row.group_snapshot_id:
        made.group_snapshot = None
    made.obj_reset_changes()
    return made


def group(context: Any, row: Row) -> Any:
    """A ``cinder.objects.Group``; its volumes and snapshots are loaded when they are read."""
    from cinder import objects

    return objects.Group._from_db_object(context, objects.Group(), row)


def group_snapshot(context: Any, row: Row) -> Any:
    """A ``cinder.objects.GroupSnapshot`` with its group."""
    from cinder import objects

    made = objects.GroupSnapshot._from_db_object(context, objects.GroupSnapshot(), row)
    made.group = group(context, row["group"])
    made.obj_reset_changes()
    return made


def object_list(context: Any, kind: str, members: list[Any]) -> Any:
    """A ``cinder.objects.VolumeList``, ``SnapshotList``, ... of these objects."""
    from cinder import objects

    made = getattr(objects, kind)(context)
    made.objects = members
    made.obj_reset_changes()
    return made


def take_over(versioned_object: Any, update: Mapping[str, Any] | None) -> None:
    """Save what the driver returned, and what it set on the object without saving.

    Returned metadata is added to what is there.  Cinder would put it in its place, so
    that a driver which returns only its own keys loses the user's.
    """
    changes = dict(update or {})
    # Now, not when it is stored: the next step of this call may fail and quote it.
    SECRETS.learn_named(changes)
    for name in ("metadata", "admin_metadata"):
        if changes.get(name):
            changes[name] = {**getattr(versioned_object, name), **changes[name]}
    if changes:
        versioned_object.update(changes)
    if changes or _is_touched(versioned_object):
        versioned_object.save()


def _is_touched(versioned_object: Any) -> bool:
    """Whether the driver set anything; Cinder's own look at all fields costs 0.2 ms."""
    if versioned_object._changed_fields:
        return True
    attributes = vars(versioned_object)
    for name in ("metadata", "admin_metadata", "glance_metadata"):
        original = attributes.get(f"_orig_{name}")
        if original is not None and original != attributes.get(f"_obj_{name}"):
            return True
    return False


def volume_type(context: Any, row: Row) -> Any:
    """A ``cinder.objects.VolumeType`` with extra specs and quality of service."""
    from cinder import objects

    made = objects.VolumeType._from_db_object(context, objects.VolumeType(), row, ["extra_specs"])
    made.qos_specs = _qos_specs(context, row)
    made.obj_reset_changes()
    return made


def _qos_specs(context: Any, row: Row) -> Any:
    from cinder import objects

    specs = row["qos_specs"]
    if specs is None:
        return None
    made = objects.QualityOfServiceSpecs(context)
    return objects.QualityOfServiceSpecs._from_db_object(context, made, specs)
