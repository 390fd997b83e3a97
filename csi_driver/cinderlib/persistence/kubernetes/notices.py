"""What deserves an Event, from how an object was and is; pure.

Called by ``store`` with every object that it writes or sees.
"""

from __future__ import annotations

from csi_driver.cinderlib.persistence.kubernetes.resources import FINALIZER, ORPHAN
from csi_driver.kube.api import Object
from csi_driver.kube.events import Notice


def notices(before: Object | None, item: Object) -> list[Notice]:
    """What to tell about an object that was ``before`` and is ``item`` now."""
    found = []
    if item["kind"] == ORPHAN.kind and before is None:
        spec = item.get("spec") or {}
        found.append(
            Notice(
                item,
                "MayBeLeft",
                f"A {spec.get('kind')} with the Cinder id {spec.get('id')} may be left on backend"
                f" {spec.get('backend')}: {spec.get('reason')}. Look for it there; see"
                " cinder-csi orphans",
            )
        )
    error = _error(item)
    if error and error != _error(before):
        operation = item["status"]["operation"]
        reason = f"{operation['kind'].replace('-', ' ').title().replace(' ', '')}Failed"
        found.append(Notice(item, reason, error))
    snapshot = _reverted_to(item)
    if snapshot and snapshot != _reverted_to(before):
        found.append(
            Notice(
                item,
                "Reverting",
                f"The volume is put back to snapshot {snapshot}; what was written since is lost",
                warning=False,
            )
        )
    if _deleted_by_hand(item) and not _deleted_by_hand(before):
        found.append(
            Notice(
                item,
                "DeletionWaits",
                "The object was deleted by hand and stays while the backend may hold what it"
                " stands for: delete the PersistentVolume or VolumeSnapshotContent instead",
            )
        )
    return found


def _error(item: Object | None) -> str:
    return str(_operation(item).get("lastError", ""))


def _reverted_to(item: Object | None) -> str:
    operation = _operation(item)
    return str(operation.get("snapshotID", "")) if operation.get("kind") == "revert" else ""


def _operation(item: Object | None) -> Object:
    return ((item or {}).get("status") or {}).get("operation") or {}


def _deleted_by_hand(item: Object | None) -> bool:
    metadata = (item or {}).get("metadata") or {}
    deleted = bool(metadata.get("deletionTimestamp"))
    return deleted and FINALIZER in (metadata.get("finalizers") or ())
