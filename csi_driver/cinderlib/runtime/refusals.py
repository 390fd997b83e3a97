"""The functions of Cinder's database that are not provided, and why.

Used by ``database`` for its error and by the test that classifies every name that
the installed Cinder's drivers, objects and volume helpers ask for.  The test fails
on a name that is neither provided nor here: a new Cinder release asks for more.
"""

from __future__ import annotations

_REASONS: dict[str, tuple[str, ...]] = {
    "there are no consistency groups of old, only generic groups": (
        "cgsnapshot_*",
        "consistencygroup_*",
        "snapshot_get_all_for_cgsnapshot",
    ),
    "groups, their snapshots and types come with each call and are not administered": (
        "group_create",
        "group_destroy",
        "group_get_all*",
        "group_include_in_cluster",
        "group_snapshot_create",
        "group_snapshot_destroy",
        "group_snapshot_get_all",
        "group_snapshot_get_all_by_project",
        "group_type_access_*",
        "group_type_create",
        "group_type_destroy",
        "group_type_get_all",
        "group_type_get_by_name",
        "group_type_update",
    ),
    "there are no Cinder services, clusters or workers": (
        "cluster_*",
        "service_*",
        "worker_*",
        "is_backend_frozen",
        "volume_include_in_cluster",
    ),
    "quotas, projects and summaries belong to the OpenStack API": (
        "get_all_projects_with_default_type",
        "get_snapshot_summary",
        "get_volume_summary",
        "project_default_volume_type_get",
        "quota_*",
        "reservation_*",
        "snapshot_data_get_for_project",
        "snapshot_get_all_by_project",
        "volume_get_all_by_project",
        "volume_attachment_get_all_by_project",
    ),
    "volume types and their specs come with each volume and are not administered": (
        "qos_specs_associat*",
        "qos_specs_create",
        "qos_specs_delete",
        "qos_specs_disassociate*",
        "qos_specs_get_all",
        "qos_specs_item_delete",
        "qos_specs_update",
        "volume_type_access_add",
        "volume_type_access_remove",
        "volume_type_create",
        "volume_type_destroy",
        "volume_type_update",
    ),
    "attachments are recorded by the object layer, not by Cinder's objects": (
        "attachment_destroy",
        "attachment_specs_delete",
        "volume_attach",
        "volume_attached",
        "volume_attachment_get_all",
        "volume_attachment_get_all_by_host",
        "volume_attachment_get_all_by_instance_uuid",
        "volume_attachment_update",
        "volume_detached",
    ),
    "listings across backends, with filters and by time, are of the OpenStack API": (
        "snapshot_get_all",
        "snapshot_get_all_active_by_window",
        "snapshot_get_all_by_host",
        "volume_get_all_active_by_window",
    ),
    "records are compared and written by version, not by SQL conditions": ("conditional_update",),
    "there are no backups": ("backup_*",),
}


def reason(name: str) -> str:
    """Why ``cinder.db.api.<name>`` is not provided; '' for a name that is not known."""
    for text, patterns in _REASONS.items():
        for pattern in patterns:
            if name == pattern or (pattern.endswith("*") and name.startswith(pattern[:-1])):
                return text
    return ""
