"""Cinder's versioned objects for one driver call.

Used by :mod:`csi_driver.cinderlib.manager`.  Drivers take Volume, Snapshot and
VolumeAttachment objects, read any field, set some and save.  The objects are made by
Cinder's own code from the rows of ``rows``, so that no field is left unset (reading
an unset one raises), and their ``save`` lands in those rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from csi_driver.base.masking import SECRETS
from csi_driver.cinderlib.runtime import bootstrap
from csi_driver.cinderlib.runtime.rows import Row

_VOLUME_PARTS = (
    "metadata",
    "admin_metadata",
    "glance_metadata",
    "volume_type",
    "volume_type.extra_specs",
    "volume_attachment",
    "cluster",
)


def request_context() -> Any:
    """A request context of an administrator.

    ``is_admin`` has to be said: the context would ask the policy engine otherwise.
    ``overwrite=False`` leaves the thread's current context of oslo alone.
    """
    from cinder import context

    settings = bootstrap.active()
    return context.RequestContext(
        user_id=settings.user_id,
        project_id=settings.project_id,
        is_admin=True,
        overwrite=False,
    )


def volume(context: Any, row: Row) -> Any:
    """A ``cinder.objects.Volume`` with every field filled."""
    from cinder import objects

    made = objects.Volume._from_db_object(context, objects.Volume(), row, list(_VOLUME_PARTS))
    # Made apart, since Cinder's code above would leave it out of the type.
    made.volume_type.qos_specs = _qos_specs(context, row)
    made.volume_type.obj_reset_changes()
    made.group = None
    made.consistencygroup = None
    made.obj_reset_changes()
    return made


def snapshot(context: Any, row: Row) -> Any:
    """A ``cinder.objects.Snapshot`` with every field and its volume filled."""
    from cinder import objects

    made = objects.Snapshot._from_db_object(context, objects.Snapshot(), row, ["metadata"])
    made.volume = volume(context, row["volume"])
    made.cgsnapshot = None
    made.group_snapshot = None
    made.obj_reset_changes()
    return made


def take_over(versioned_object: Any, update: Mapping[str, Any] | None) -> None:
    """Save what the driver returned, and what it set on the object without saving.

    Returned metadata is added to what is there.  Cinder would put it in its place, so
    that a driver which returns only its own keys loses the user's.
    """
    changes = dict(update or {})
    # Now, not when it is stored: the next step of this call may fail and quote it.
    SECRETS.learn_named(changes)
    for name in ("metadata", "admin_metadata"):
        if changes.get(name):
            changes[name] = {**getattr(versioned_object, name), **changes[name]}
    versioned_object.update(changes)
    versioned_object.save()


def _qos_specs(context: Any, row: Row) -> Any:
    from cinder import objects

    specs = row["volume_type"]["qos_specs"]
    if specs is None:
        return None
    made = objects.QualityOfServiceSpecs(context)
    return objects.QualityOfServiceSpecs._from_db_object(context, made, specs)
