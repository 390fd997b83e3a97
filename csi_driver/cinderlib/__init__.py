"""The object layer: Backend, Volume, Snapshot and Connection over any Cinder driver.

For Python programs and scripts::

    import csi_driver.cinderlib as cinderlib

    cinderlib.setup(persistence_config={"storage": "db"})
    backend = cinderlib.Backend(
        "lvm", volume_driver="cinder.volume.drivers.lvm.LVMVolumeDriver", volume_group="vg"
    )
    volume = backend.create_volume(10, name="data")
    print(volume.attach().path)

Importing this imports neither Cinder nor os-brick and changes nothing in the process;
``setup``, which the first ``Backend`` implies, does.  What it changes is listed in
:mod:`csi_driver.cinderlib.runtime.bootstrap`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from csi_driver import __version__ as __version__

if TYPE_CHECKING:
    from csi_driver.cinderlib.backend import Backend
    from csi_driver.cinderlib.connection import Connection
    from csi_driver.cinderlib.group import Group
    from csi_driver.cinderlib.group_snapshot import GroupSnapshot
    from csi_driver.cinderlib.key_value import KeyValue
    from csi_driver.cinderlib.session import setup
    from csi_driver.cinderlib.snapshot import Snapshot
    from csi_driver.cinderlib.volume import Volume

_HOMES = {
    "setup": "session",
    "list_supported_drivers": "driver_list",
    "get_connector_properties": "session",
    "DEFAULT_PROJECT_ID": "session",
    "DEFAULT_USER_ID": "session",
    "Backend": "backend",
    "Volume": "volume",
    "Snapshot": "snapshot",
    "Group": "group",
    "GroupSnapshot": "group_snapshot",
    "Connection": "connection",
    **dict.fromkeys(("load", "json", "jsons", "dump", "dumps"), "serialization"),
    "KeyValue": "key_value",
    **dict.fromkeys(
        (
            "BackendExists",
            "BackendNotFound",
            "BackendSetupFailed",
            "ConnectionNotFound",
            "GroupFailed",
            "GroupNotFound",
            "GroupSnapshotNotFound",
            "InvalidJSON",
            "InvalidOption",
            "InvalidPersistence",
            "InvalidReference",
            "InvalidSize",
            "InvalidVolume",
            "MissingPackage",
            "NotFound",
            "NotLocal",
            "NotProvided",
            "NotSetUp",
            "OperationNotSupported",
            "SetupConflict",
            "SnapshotNotFound",
            "UnknownDriver",
            "UnknownOption",
            "UnsupportedDriver",
            "VolumeNotFound",
        ),
        "exceptions",
    ),
}

__all__ = [
    "Backend",
    "Connection",
    "Group",
    "GroupSnapshot",
    "KeyValue",
    "Snapshot",
    "Volume",
    "setup",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
