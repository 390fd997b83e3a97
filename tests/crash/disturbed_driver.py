"""The driver double, failing where a test armed a fault while the process runs.

For the steps that are reached only when a driver call failed, or changed the volume.
"""

from __future__ import annotations

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
