"""Records as Kubernetes objects and back; pure.

An object holds a record's fields in ``spec`` and ``status``, under Kubernetes' spelling,
and without those that have their default and no column.  ``status.recordVersion`` is the
record's version: a number that the writer of each change draws, unlike
``resourceVersion``, which labels and annotations of other people change too.
What an object has besides (other people's metadata, fields of a newer version of this
plugin) survives a change.
"""

from __future__ import annotations

import datetime
import hashlib
import re
import types
import typing
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar

import msgspec

from csi_driver.cinderlib.persistence.kubernetes.resources import (
    BY_RECORD,
    FINALIZER,
    Resource,
    camel,
    fields,
)
from csi_driver.cinderlib.persistence.records import Phase, Record
from csi_driver.cinderlib.persistence.store import StoreCorrupt
from csi_driver.kube.api import Object
from csi_driver.kube.group import API_VERSION, DRIVER_LABEL

R = TypeVar("R", bound=Record)

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def object_name(resource: Resource, driver: str, record_id: str) -> str:
    """The name of a record's object: its id where that is unique in the cluster."""
    if resource.own_ids and _UUID.fullmatch(record_id):
        return record_id
    return hashlib.sha256(f"{driver}\0{record_id}".encode()).hexdigest()[:40]


def to_object(
    record: Record, version: int, driver: str, before: Object | None, now: datetime.datetime
) -> Object:
    """The object to write for a record.

    :param version: the record version that the written object will have.
    :param before: the stored object, None when there is none.
    :param now: when a condition that changes has changed; in UTC.
    """
    resource = BY_RECORD[type(record)]
    # Copied is what is written into below, and no more: a deep copy takes longer than all else.
    made: Object = dict(before or {}, apiVersion=API_VERSION, kind=resource.kind)
    metadata = made["metadata"] = dict(made.get("metadata") or {})
    metadata["name"] = object_name(resource, driver, record.id)
    metadata["labels"] = {**(metadata.get("labels") or {}), DRIVER_LABEL: driver}
    finalizers = metadata["finalizers"] = list(metadata.get("finalizers") or ())
    if resource.held and FINALIZER not in finalizers:
        finalizers.append(FINALIZER)
    content = {section: dict(made.get(section) or {}) for section in ("spec", "status")}
    made.update(content)
    for field in _fields(type(record)):
        section = content[field.section]
        value = getattr(record, field.name)
        # A column has nothing to show of what is not written.
        if value == field.default and not (value and field.shown):
            section.pop(field.key, None)
        else:
            section[field.key] = _plain(value)
    content["status"]["recordVersion"] = version
    if "phase" in resource.status:
        content["status"]["conditions"] = [_ready(record, content["status"], now)]
    return made


def to_record(kind: type[R], item: Object) -> R:
    """The record that an object holds.

    :raises StoreCorrupt: it holds none.
    """
    resource = BY_RECORD[kind]
    found: dict[str, Any] = {"version": record_version(item)}
    try:
        sections = {name: item.get(name) or {} for name in ("spec", "status")}
        for field in _fields(kind):
            section = sections[field.section]
            if field.key in section:
                found[field.name] = _restored(field.struct, section[field.key])
        return msgspec.convert(found, kind)
    except (msgspec.ValidationError, AttributeError, TypeError) as error:
        name = item.get("metadata", {}).get("name")
        raise StoreCorrupt(
            f"The {resource.kind} {name!r} cannot be understood: {error}",
            advice=f"See kubectl get {resource.plural} {name} -o yaml; restore it from a backup",
        ) from error


def record_version(item: Object) -> int:
    """The version of the record in an object; -1 when somebody else made the object."""
    version = (item.get("status") or {}).get("recordVersion")
    return version if isinstance(version, int) and version > 0 else -1


def record_id(item: Object) -> str:
    """The id of the record in an object."""
    return str((item.get("spec") or {}).get("id") or item["metadata"]["name"])


def _ready(record: Record, status: Object, now: datetime.datetime) -> Object:
    """The condition ``Ready``: what a person, or ``kubectl wait``, asks first."""
    phase: Phase = record.phase  # type: ignore[attr-defined]
    operation = getattr(record, "operation", None)
    ready = phase in (Phase.AVAILABLE, Phase.ATTACHED)
    message = f"{phase.value}"
    if operation is not None:
        message = f"{operation.kind} by {operation.owner}, at step {operation.step}"
        if operation.last_error:
            message += f"; the last attempt failed: {operation.last_error}"
    condition = {
        "type": "Ready",
        "status": "True" if ready else "False",
        "reason": phase.value.capitalize(),
        "message": message[:1000],
    }
    before: Object = next(
        (each for each in status.get("conditions") or () if each["type"] == "Ready"), {}
    )
    unchanged = before.get("status") == condition["status"] and before.get("lastTransitionTime")
    condition["lastTransitionTime"] = unchanged or now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return condition


@dataclass(frozen=True)
class _Field:
    """A field of a record or of a struct in it, and where an object has it.

    :ivar struct: what the field holds, when that is a struct.
    :ivar shown: a column of ``kubectl get`` shows it.
    """

    name: str
    key: str
    default: Any
    struct: type[msgspec.Struct] | None
    section: str = ""
    shown: bool = False


# What msgspec tells about a type it makes anew each time: that would be nine tenths of the
# time of an object.
@cache
def _fields(kind: type[Record]) -> tuple[_Field, ...]:
    resource = BY_RECORD[kind]
    found = []
    for info in fields(kind):
        field, section = _field(info), resource.section(info.name)
        shown = f".{section}.{field.key}" in resource.shown
        found.append(replace(field, section=section, shown=shown))
    return tuple(found)


@cache
def _inner_fields(struct: type[msgspec.Struct]) -> dict[str, _Field]:
    found = [_field(info) for info in msgspec.structs.fields(struct)]
    return {each.key: each for each in found}


def _field(info: msgspec.structs.FieldInfo) -> _Field:
    default = info.default
    if info.default_factory is not msgspec.NODEFAULT:
        default = info.default_factory()
    return _Field(info.name, camel(info.name), default, struct_of(info.type))


def _plain(value: Any) -> Any:
    """A field's value as JSON: nested structs with Kubernetes' spelling, the rest as it is."""
    if isinstance(value, msgspec.Struct):
        return {
            field.key: _plain(inner)
            for field in _inner_fields(type(value)).values()
            if (inner := getattr(value, field.name)) != field.default
        }
    return msgspec.to_builtins(value)


def _restored(struct: type[msgspec.Struct] | None, value: Any) -> Any:
    """The inverse of :func:`_plain`, before types are checked."""
    if struct is None or not isinstance(value, dict):
        return value
    names = _inner_fields(struct)
    return {
        names[key].name: _restored(names[key].struct, inner)
        for key, inner in value.items()
        if key in names
    }


@cache
def struct_of(annotation: Any) -> type[msgspec.Struct] | None:
    """The struct that a field holds, if it holds one, or one or None."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        found = [struct_of(each) for each in typing.get_args(annotation)]
        return next((each for each in found if each is not None), None)
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return annotation
    return None
