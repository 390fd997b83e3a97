"""What ``cinder.db.api`` answers here: the functions that drivers really use.

Installed by :mod:`csi_driver.cinderlib.runtime.bootstrap`; called by drivers
(``self.db``), by Cinder's base classes and targets, and by Cinder's versioned
objects, whose ``save``, ``refresh``, ``get_by_id`` and lazy loads are Cinder's own
code on top of this.  Rows come from :mod:`csi_driver.cinderlib.runtime.directory`.

Every public function below and in ``database_volumes``, ``database_snapshots``,
``database_groups`` and ``database_types`` has the name and the parameters of Cinder's
function.  Any other
name is refused: the error says which driver asked for which function, and why there
is none (``refusals``).  A test lists what the installed Cinder asks for, so that a new
name is noticed before a user does.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

from csi_driver.cinderlib.exceptions import NotProvided
from csi_driver.cinderlib.runtime import database_common as common
from csi_driver.cinderlib.runtime import (
    database_groups,
    database_snapshots,
    database_types,
    database_volumes,
    refusals,
)
from csi_driver.cinderlib.runtime.directory import directory
from csi_driver.cinderlib.runtime.rows import Row


def function(name: str) -> Callable[..., Any]:
    """The function that stands for ``cinder.db.api.<name>``; a refusal if there is none."""
    provided = PROVIDED.get(name)
    if provided is not None:
        return provided

    def refuse(*_args: Any, **_kwargs: Any) -> Any:
        raise NotProvided(
            f"cinder.db.api.{name} is not provided; {common.asking_driver()} asked for it"
            f" ({refusals.reason(name) or 'unknown to this version'})"
        )

    return refuse


# -- versioned objects ---------------------------------------------------------


def get_model_for_versioned_object(versioned_object: Any) -> type:
    """A class that carries the object's name; ``get_by_id`` gets it back."""
    name = versioned_object if isinstance(versioned_object, str) else versioned_object.obj_name()
    return type(name, (), {})


def is_orm_value(_value: Any) -> bool:
    """Nothing here is a SQL expression."""
    return False


def dispose_engine() -> None:
    """There is no engine."""


def get_by_id(context: Any, model: type, id: str, *_args: Any, **_kwargs: Any) -> Row:
    """The row of any object, for ``get_by_id`` and ``refresh`` of the objects."""
    getters: dict[str, Callable[[Any, str], Row]] = {
        "Volume": database_volumes.volume_get,
        "Snapshot": database_snapshots.snapshot_get,
        "VolumeAttachment": database_volumes.volume_attachment_get,
        "VolumeType": database_types.volume_type_get,
        "QualityOfServiceSpecs": database_types.qos_specs_get,
        "Group": database_groups.group_get,
        "GroupSnapshot": database_groups.group_snapshot_get,
        "GroupType": database_groups.group_type_get,
    }
    getter = getters.get(model.__name__)
    if getter is None:
        raise NotProvided(
            f"{common.asking_driver()} asked for a {model.__name__}, of which there are none"
        )
    return getter(context, id)


def resource_exists(_context: Any, model: type, resource_id: str) -> bool:
    """Whether there is such a volume or snapshot."""
    return directory.find(model.__name__, resource_id) is not None


# -- what drivers keep ---------------------------------------------------------


def driver_initiator_data_get(_context: Any, initiator: str, namespace: str) -> list[Row]:
    """What a driver keeps for an initiator."""
    members = _members_of_namespace(namespace)
    data = members[0].lookup.initiator_data(initiator, namespace) if members else {}
    return [
        Row(initiator=initiator, namespace=namespace, key=key, value=value)
        for key, value in data.items()
    ]


def driver_initiator_data_insert_by_key(
    _context: Any, initiator: str, namespace: str, key: str, value: str
) -> Row:
    """Keep a value for an initiator; what is there stays."""
    members = _members_of_namespace(namespace)
    if not members or not members[0].lookup.add_initiator_data(initiator, namespace, key, value):
        raise common.cinder_exception(
            "DriverInitiatorDataExists", initiator=initiator, namespace=namespace, key=key
        )
    return Row(initiator=initiator, namespace=namespace, key=key, value=value)


def image_volume_cache_get_by_volume_id(_context: Any, _volume_id: str) -> None:
    """No volume is the cached copy of an image."""
    return


def _members_of_namespace(namespace: str) -> list[Any]:
    # The namespace is the backend's name unless driver_data_namespace says otherwise.
    members = directory.members()
    return [member for member in members if member.backend == namespace] or members[:1]


def _functions_of(module: str) -> dict[str, Callable[..., Any]]:
    return {
        name: value
        for name, value in vars(sys.modules[module]).items()
        if inspect.isfunction(value)
        and value.__module__ == module
        and not name.startswith("_")
        and value is not function
    }


PROVIDED: Mapping[str, Callable[..., Any]] = {
    **_functions_of(database_volumes.__name__),
    **_functions_of(database_snapshots.__name__),
    **_functions_of(database_groups.__name__),
    **_functions_of(database_types.__name__),
    **_functions_of(__name__),
}
"""The functions of ``cinder.db.api`` that exist here, by name."""
