"""Removes the lock files of a deleted volume or snapshot, as Cinder's manager does.

Called by :mod:`csi_driver.cinderlib.manager` after a deletion.  Cinder's own functions
take a fifth of the CPU of a deletion, by patterns that are compiled anew for each
volume; most objects never had a lock file, so its directory is looked at first, and read
only when it has changed.
"""

from __future__ import annotations

import functools
import inspect
import os
from pathlib import Path
from typing import Any

from csi_driver.base.directories import WhileUnchanged
from csi_driver.cinderlib.runtime import bootstrap


def clean_volume(cinder_id: str, driver: Any) -> None:
    """Remove the lock files of a volume, those that its driver names too."""
    if _has_files(cinder_id) or _names_files(driver.__class__, "clean_volume_file_locks"):
        from cinder import coordination, utils

        utils.clean_volume_file_locks(cinder_id, driver)
        coordination.synchronized_remove(f"*{cinder_id}*")


def clean_snapshot(cinder_id: str, driver: Any) -> None:
    """Remove the lock files of a snapshot, those that its driver names too."""
    if _has_files(cinder_id) or _names_files(driver.__class__, "clean_snapshot_file_locks"):
        from cinder import coordination, utils

        utils.clean_snapshot_file_locks(cinder_id, driver)
        coordination.synchronized_remove(f"*{cinder_id}*")


def _has_files(cinder_id: str) -> bool:
    return any(cinder_id in name for name in _names.of(bootstrap.lock_directory()))


def _read(directory: Path) -> tuple[str, ...]:
    with os.scandir(directory) as entries:
        return tuple(entry.name for entry in entries)


# A lock file that is made or removed, by whatever process, gives its directory another time.
_names = WhileUnchanged(_read)


@functools.cache
def _names_files(driver: type[object], method: str) -> bool:
    """Whether the driver has lock files of its own, which may have any name."""
    from cinder.volume import driver as base_driver

    # Static, as one of the two methods is a class method: bound ones are never the same.
    cinders = inspect.getattr_static(base_driver.BaseVD, method)
    return inspect.getattr_static(driver, method, cinders) is not cinders
