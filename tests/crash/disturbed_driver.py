"""The driver double, failing where a test armed a fault while the process runs.

For the steps that are reached only when a driver call failed, or changed the volume.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cinder import exception, interface

from csi_driver.base import faults
from csi_driver.base.errors import CinderCSIError
from tests.doubles.driver import DoubleDriver
from tests.doubles.faults import VendorError, When


class _Asked(CinderCSIError):
    """A fault that was armed in the directory."""


@interface.volumedriver
class DisturbedDriver(DoubleDriver):
    """Before a call takes effect it refuses as drivers should; after, as vendors do."""

    removal_proves_absence = True
    """Of the double this is true, and the tests rely on it."""

    def remove_export(self, context: Any, volume: Any) -> None:
        """Forget the credentials of the export, in the volume itself."""
        super().remove_export(context, volume)
        volume.provider_auth = None

    def _misbehave(self, operation: str, when: When) -> None:
        super()._misbehave(operation, when)
        try:
            faults.reach(f"driver/{operation}/{when}", _Asked)
        except _Asked as asked:
            kinds = {"before": exception.NotSupportedOperation, "after": VendorError}
            raise kinds[when](str(asked)) from asked


@interface.volumedriver
class UnprovingDriver(DisturbedDriver):
    """When it has deleted something, nobody knows whether it was there."""

    removal_proves_absence = False


class _Names:
    """A set of names, or of tuples of them, as files: the processes on it see the same."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(exist_ok=True)

    def add(self, name: Any) -> None:
        self._file(name).touch()

    append = add

    def discard(self, name: Any) -> None:
        self._file(name).unlink(missing_ok=True)

    remove = discard

    def __contains__(self, name: Any) -> bool:
        return self._file(name).exists()

    def _file(self, name: Any) -> Path:
        return self._directory / (name if isinstance(name, str) else "@".join(name))


@interface.volumedriver
class SharedDriver(DisturbedDriver):
    """What it exports and connects is in files beside the volumes, as on an array that several
    processes work on.  A file per call that had its effect tells who made it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        beside = Path(self.configuration.double_directory).parent
        self.exported: Any = _Names(beside / "exported")
        self.connected: Any = _Names(beside / "connected")
        self._done = _Names(beside / "done")

    def _misbehave(self, operation: str, when: When) -> None:
        super()._misbehave(operation, when)
        if when == "after":
            self._done.add((operation, str(os.getpid())))
