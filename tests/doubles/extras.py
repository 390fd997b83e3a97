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

    # -- groups

    groups = False
    """Whether the driver knows groups; else it leaves them to the manager, as most do."""

    def create_group(self, context: Any, group: Any) -> dict[str, Any]:
        self._require_groups()
        with self._work("create_group", group.id):
            pass
        return {"status": self.group_answers.get("create_group", "available")}

    def update_group(
        self, context: Any, group: Any, add_volumes: Any = None, remove_volumes: Any = None
    ) -> tuple[Any, Any, Any]:
        self._require_groups()
        with self._work("update_group", group.id):
            self.regrouped = ([v.id for v in add_volumes], [v.id for v in remove_volumes])
        return None, [{"id": v.id, "provider_location": "moved"} for v in add_volumes], None

    def delete_group(self, context: Any, group: Any, volumes: Any) -> tuple[Any, Any]:
        self._require_groups()
        with self._work("delete_group", group.id):
            told = self._each("delete_group", volumes, "deleted", lambda v: self.remove(v.name))
        return {"status": "deleted"}, told

    def create_group_from_src(
        self,
        context: Any,
        group: Any,
        volumes: Any,
        group_snapshot: Any = None,
        snapshots: Any = None,
        source_group: Any = None,
        source_vols: Any = None,
    ) -> tuple[Any, Any]:
        self._require_groups()
        sources = dict(zip((v.id for v in volumes), snapshots or source_vols, strict=True))
        with self._work("create_group_from_src", group.id):
            told = self._each(
                "create_group_from_src",
                volumes,
                "available",
                lambda v: self.shelf.copy(sources[v.id].name, v.name, v.size * GIB),
            )
        return None, told

    def create_group_snapshot(self, context: Any, cut: Any, snapshots: Any) -> tuple[Any, Any]:
        self._require_groups()
        with self._work("create_group_snapshot", cut.id):
            self.cut_of = (cut.group.name, [s.volume.group.name for s in snapshots])
            told = self._each(
                "create_group_snapshot",
                snapshots,
                "available",
                lambda s: self.shelf.copy(s.volume_name, s.name, s.volume_size * GIB),
            )
        return {"status": "available"}, told

    def delete_group_snapshot(self, context: Any, cut: Any, snapshots: Any) -> tuple[Any, Any]:
        self._require_groups()
        with self._work("delete_group_snapshot", cut.id):
            told = self._each(
                "delete_group_snapshot", snapshots, "deleted", lambda s: self.remove(s.name)
            )
        return {"status": "deleted"}, told

    group_answers: dict[str, str] = {}
    """By operation the status that the driver tells of the last member, which it leaves out."""
    regrouped: tuple[list[str], list[str]] = ([], [])
    cut_of: tuple[str, list[str]] = ("", [])

    def _require_groups(self) -> None:
        if not self.groups:
            raise NotImplementedError

    def remove(self, name: str) -> None:
        self.shelf.remove(name)

    def _each(
        self, operation: str, members: Any, status: str, work: Callable[[Any], None]
    ) -> list[dict[str, Any]]:
        told = []
        for member in members:
            answer = status
            if member is members[-1]:
                answer = self.group_answers.get(operation, status)
            if answer == status:
                work(member)
            told.append({"id": member.id, "status": answer})
        return told

    def _found(self, existing_ref: dict[str, str]) -> int:
        size = self.shelf.names().get(existing_ref.get("source-name", ""))
        if size is None:
            raise exception.ManageExistingInvalidReference(
                existing_ref=existing_ref, reason="there is no such volume"
            )
        return math.ceil(size / GIB)
