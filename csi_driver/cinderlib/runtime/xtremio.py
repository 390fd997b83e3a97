"""What Cinder's XtremIO driver does wrong, put right.

Laid over the driver by :mod:`csi_driver.cinderlib.runtime.quirks`.  The facts, as read in
``cinder/volume/drivers/dell_emc/xtremio.py``:

- From version 4 on a snapshot or clone is made with a name of the array's choice and then
  renamed.  When the answer in between is lost, the driver's deletion looks for the final
  name, finds nothing, and the copy stays for ever.  Its snapshot set has the final name
  from the start: what is left in it is removed too.
- Before version 4.2 a disconnect fails with TypeError for a host that the array does not
  know (any more), so that neither a repeated disconnect nor the undo of a failed connect
  ever ends.
- A volume that is gone is told as one more failure, or as "not found" of anything.
- Requests have no timeout: an array that says nothing would keep the thread for ever.

Not put right: the driver hands ``xtremio_array_busy_retry_count`` and ``..._interval`` on
in the wrong order (the count is the pause in seconds, the interval the number of attempts).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import requests
from cinder import exception
from cinder.volume.drivers.dell_emc import xtremio

TIMEOUTS_SECONDS = (10.0, 120.0)
"""How long a connection to the array, and then its answer, is waited for."""

_INDEX = xtremio.XTREMIO_OID_INDEX


class XtremIOCorrections(xtremio.XtremIOVolumeDriver):  # type: ignore[misc]
    """Methods in place of the driver's own, of both transports."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _limit_waiting()

    def delete_volume(self, volume: Any) -> None:
        """Delete a volume, and what was never renamed to be it."""
        super().delete_volume(volume)
        self._delete_unrenamed(volume.name_id)

    def delete_snapshot(self, snapshot: Any) -> None:
        """Delete a snapshot, and what was never renamed to be it."""
        super().delete_snapshot(snapshot)
        self._delete_unrenamed(snapshot.id)

    def extend_volume(self, volume: Any, new_size: int) -> None:
        """Extend a volume; says so when it is gone."""
        with self._telling_what_is_gone(volume.id):
            super().extend_volume(volume, new_size)

    def initialize_connection(self, volume: Any, connector: Mapping[str, Any]) -> Any:
        """Map a volume; says so when it is gone."""
        with self._telling_what_is_gone(volume.id):
            return super().initialize_connection(volume, connector)

    def terminate_connection(
        self, volume: Any, connector: Mapping[str, Any] | None, **kwargs: Any
    ) -> Any:
        """Unmap a volume; says so when it is gone."""
        with self._telling_what_is_gone(volume.id):
            return super().terminate_connection(volume, connector, **kwargs)

    def _get_ig_indexes_from_initiators(self, connector: Mapping[str, Any]) -> list[int]:
        names = self._get_initiator_names(connector)
        if isinstance(self.client, xtremio.XtremIOClient42):
            groups: list[int] = self.client.get_initiators_igs(names)
            return groups
        initiators = [self.client.get_initiator(name) for name in names]
        return list({found["ig-id"][_INDEX] for found in initiators if found})

    def _delete_unrenamed(self, name: str) -> None:
        if not isinstance(self.client, xtremio.XtremIOClient4):
            return  # version 3 gives the final name from the start
        try:
            found = self.client.req("snapshot-sets", name=name)["content"]
        except exception.NotFound:
            return
        for member in found["vol-list"]:
            with contextlib.suppress(exception.NotFound):
                self.client.req("volumes", "DELETE", idx=member[_INDEX])

    @contextlib.contextmanager
    def _telling_what_is_gone(self, volume_id: str) -> Iterator[None]:
        try:
            yield
        except (exception.NotFound, exception.VolumeDriverException) as error:
            missed = any(isinstance(e, exception.NotFound) for e in (error, error.__context__))
            if missed and self._is_gone(volume_id):
                raise exception.VolumeNotFound(volume_id=volume_id) from error
            raise

    def _is_gone(self, volume_id: str) -> bool:
        try:
            self.client.req("volumes", name=volume_id)
        except exception.NotFound:
            return True
        return False


def _limit_waiting() -> None:
    """Give the requests of the driver's module, and of no other, a timeout."""

    def request(method: str, url: str, **options: Any) -> Any:
        return requests.request(method, url, timeout=TIMEOUTS_SECONDS, **options)

    xtremio.requests = SimpleNamespace(request=request, exceptions=requests.exceptions)
