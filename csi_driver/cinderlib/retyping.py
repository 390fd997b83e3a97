"""Retype: other extra specs and quality of service for a volume that exists.

Called by :meth:`Volume.retype`.  The driver is called exactly as Cinder's
``VolumeManager.retype`` does, under the rules of Cinder's ``volume.api.API.retype``;
where Cinder would go on by migrating the volume, the retype is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from csi_driver.cinderlib import connection_info
from csi_driver.cinderlib.exceptions import InvalidVolume, OperationNotSupported
from csi_driver.cinderlib.manager import VolumeManager
from csi_driver.cinderlib.persistence.records import Phase, VolumeRecord
from csi_driver.cinderlib.runtime import ovo, rows
from csi_driver.cinderlib.runtime.directory import directory

if TYPE_CHECKING:
    from csi_driver.cinderlib.volume import Volume

_ADVICE = (
    "Cinder would migrate the volume. Make a volume with the new specs and copy the data,"
    " or change only specs that the driver can change in place"
)


@dataclass(frozen=True)
class Specs:
    """What a volume type consists of here."""

    extra_specs: dict[str, str]
    qos_specs: dict[str, str]
    multiattach: bool

    @classmethod
    def of(cls, record: VolumeRecord) -> Specs:
        """The specs that a volume has."""
        return cls(dict(record.extra_specs), dict(record.qos_specs), record.multiattach)


def wanted_specs(
    record: VolumeRecord,
    extra_specs: Mapping[str, str] | None,
    qos_specs: Mapping[str, str] | None,
    multiattach: bool | None,
) -> Specs:
    """The specs that a retype leads to; what is None stays as it is.  Pure.

    ``multiattach`` among the extra specs, as Cinder has it, is the flag.

    :raises InvalidVolume: a spec is not text, or the flag is said twice, and otherwise.
    """
    old = Specs.of(record)
    extra = old.extra_specs if extra_specs is None else dict(extra_specs)
    qos = old.qos_specs if qos_specs is None else dict(qos_specs)
    for what, specs in (("extra", extra), ("QoS", qos)):
        wrong = [key for pair in specs.items() for key in pair if not isinstance(key, str)]
        if wrong:
            raise InvalidVolume(
                f"{what} specs are text, not {wrong[0]!r}", advice="Write '<is> True' for true"
            )
    said = extra.pop("multiattach", None)
    if said is not None:
        flag = said.split()[-1:] in (["True"], ["true"])
        if multiattach not in (None, flag):
            raise InvalidVolume("multiattach is asked for and not asked for")
        multiattach = flag
    return Specs(extra, qos, old.multiattach if multiattach is None else multiattach)


def why_not(record: VolumeRecord, wanted: Specs, *, in_use: bool) -> str:
    """Why Cinder's API would refuse this retype; '' if it would not.  Pure."""
    if record.group_id:
        return "it is in a group"
    if in_use and wanted.multiattach != record.multiattach:
        return "it is connected, and multiattach would change"
    if wanted.multiattach and record.encryption is not None:
        return "an encrypted volume cannot be multiattach"
    old_limits = connection_info.front_end_qos(record.qos_specs, record.size_gib)
    new_limits = connection_info.front_end_qos(wanted.qos_specs, record.size_gib)
    if in_use and old_limits != new_limits:
        return "it is connected, and the limits that hosts enforce would change"
    return ""


def retype(volume: Volume, wanted: Specs) -> None:
    """Give a stored volume other specs; the caller holds its lock and has read it."""
    record = volume._record
    if wanted == Specs.of(record):
        return
    reason = why_not(record, wanted, in_use=bool(volume._connection_records()))
    if reason:
        raise InvalidVolume(f"{volume!r} cannot be retyped: {reason}")
    intent = dataclasses.asdict(wanted)
    with volume._operation("retype", Phase.AVAILABLE, Phase.AVAILABLE, wanted=intent):
        changed = call_driver(volume._manager, volume._record, wanted)
    volume._finish(changed)


def call_driver(manager: VolumeManager, record: VolumeRecord, wanted: Specs) -> VolumeRecord:
    """Let the driver change the volume.

    :raises OperationNotSupported: it cannot do it in place.
    """
    from cinder.volume import volume_types

    changed = msgspec.structs.replace(record, **dataclasses.asdict(wanted))
    with manager.call() as call:
        part = call.volume(record)
        new_type = rows.type_of(changed)
        directory.learn_type(new_type)
        volume_types.provision_filter_on_size(call.context, new_type, record.size_gib)
        diff, _ = volume_types.volume_types_diff(
            call.context, part.row["volume_type_id"], new_type["id"]
        )
        # As in Cinder, no driver is asked about a volume that has encryption specs.
        done, update = False, None
        if not diff["encryption"]:
            host = {
                "host": part.object.host,
                "cluster_name": None,
                "capabilities": manager.capabilities(record.pool),
            }
            made_type = ovo.volume_type(call.context, new_type)
            answer = manager.driver.retype(call.context, part.object, made_type, diff, host)
            done, update = answer if isinstance(answer, tuple) else (answer, None)
        if not done:
            raise OperationNotSupported(
                f"The driver of backend {manager.name!r} cannot change"
                f" {', '.join(changed_names(diff))} of volume {record.id} in place",
                advice=_ADVICE,
            )
        ovo.take_over(part.object, {**(update or {}), **_replication_status(diff, update or {})})
        return msgspec.structs.replace(part.changed(), **dataclasses.asdict(wanted))


def changed_names(diff: Mapping[str, Mapping[str, tuple[Any, Any]]]) -> list[str]:
    """The names of the specs that differ, as ``extra_specs.NAME``.  Pure."""
    return [
        f"{kind}.{name}"
        for kind, specs in diff.items()
        for name, (old, new) in specs.items()
        if old != new
    ]


def _replication_status(
    diff: Mapping[str, Mapping[str, tuple[Any, Any]]], update: Mapping[str, Any]
) -> dict[str, str]:
    """As ``VolumeManager._set_replication_status``: the type decides if the driver is silent."""
    from cinder.volume import volume_utils

    change = diff["extra_specs"].get("replication_enabled")
    if not change or update.get("replication_status"):
        return {}
    on = volume_utils.is_boolean_str(change[1])
    return {"replication_status": "enabled" if on else "disabled"}
