"""What the double does beyond the plain life of a volume: retype, import, groups.

A base of :class:`tests.doubles.driver.DoubleDriver`, with the same faults.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from cinder import exception

GIB = 1 << 30


class Extras:
    """The calls.  A test sets ``retype_answer``, and reads ``retyped`` and ``unmanaged``."""

    shelf: Any
    _work: Callable[[str, str], AbstractContextManager[None]]
    _told: Callable[[Any], dict[str, Any]]

    retype_answer: Any = True
    retyped: tuple[Any, ...] = ()
    statuses: tuple[str, ...] = ()

    # -- specs

    def retype(self, context: Any, volume: Any, new_type: Any, diff: Any, host: Any) -> Any:
        with self._work("retype", volume.id):
            self.retyped = (new_type, diff, host)
        return self.retype_answer

    # -- import

    def manage_existing_get_size(self, volume: Any, existing_ref: dict[str, str]) -> int:
        with self._work("manage_existing_get_size", volume.id):
            return self._found(existing_ref)

    def manage_existing(self, volume: Any, existing_ref: dict[str, str]) -> dict[str, Any]:
        with self._work("manage_existing", volume.id):
            self.statuses += (volume.status,)
            self.shelf.rename(existing_ref["source-name"], volume.name)
        return self._told(volume)

    def unmanage(self, volume: Any) -> None:
        with self._work("unmanage", volume.id):
            self.statuses += (volume.status,)

    def manage_existing_snapshot_get_size(self, snapshot: Any, existing_ref: dict[str, str]) -> int:
        with self._work("manage_existing_snapshot_get_size", snapshot.id):
            return self._found(existing_ref)

    def manage_existing_snapshot(
        self, snapshot: Any, existing_ref: dict[str, str]
    ) -> dict[str, Any]:
        with self._work("manage_existing_snapshot", snapshot.id):
            self.shelf.rename(existing_ref["source-name"], snapshot.name)
        return {"provider_location": f"double:{snapshot.name}"}

    def unmanage_snapshot(self, snapshot: Any) -> None:
        with self._work("unmanage_snapshot", snapshot.id):
            pass

    def get_manageable_volumes(
        self, cinder_volumes: Any, marker: Any, limit: Any, offset: Any, keys: Any, dirs: Any
    ) -> list[dict[str, Any]]:
        ours = {volume.name: volume.id for volume in cinder_volumes}
        return [
            {
                "reference": {"source-name": name},
                "size": math.ceil(size / GIB),
                "safe_to_manage": name not in ours,
                "reason_not_safe": "known" if name in ours else None,
                "cinder_id": ours.get(name),
                "extra_info": None,
            }
            for name, size in self.shelf.names().items()
        ]

    def _found(self, existing_ref: dict[str, str]) -> int:
        size = self.shelf.names().get(existing_ref.get("source-name", ""))
        if size is None:
            raise exception.ManageExistingInvalidReference(
                existing_ref=existing_ref, reason="there is no such volume"
            )
        return math.ceil(size / GIB)
