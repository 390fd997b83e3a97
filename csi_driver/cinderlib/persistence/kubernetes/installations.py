"""The CinderInstallation of a driver: the id that all ids of its records are made of.

Used by ``store``, which makes it for a new driver, and by the import of records, which makes
it anew with the id that the records have.
"""

from __future__ import annotations

import contextlib

from csi_driver.cinderlib.persistence.store import StoreCorrupt
from csi_driver.kube.api import Api, Object
from csi_driver.kube.errors import ApiConflict, ApiNotFound, ApiOutcomeUnknown
from csi_driver.kube.group import API_VERSION, collection

PATH = collection("cinderinstallations")


def find(api: Api, driver: str) -> str | None:
    """The installation id of a driver; None when it has none.

    :raises StoreCorrupt: the object holds none.
    :raises ApiError: it cannot be read.
    """
    with contextlib.suppress(ApiNotFound):
        return _id_of(api.get(f"{PATH}/{driver}"))
    return None


def make(api: Api, driver: str, installation_id: str) -> tuple[str, bool]:
    """Make the object unless there is one; the id that it has, and whether it was made here.

    :raises ApiError: it cannot be made.
    """
    item = {
        "apiVersion": API_VERSION,
        "kind": "CinderInstallation",
        "metadata": {"name": driver},
        "spec": {"installationID": installation_id},
    }
    try:
        return _id_of(api.create(PATH, item)), True
    except ApiConflict:  # another was faster
        return _id_of(api.get(f"{PATH}/{driver}")), False
    except ApiOutcomeUnknown:
        found = find(api, driver)
        if found is None:
            raise
        return found, found == installation_id


def replace(api: Api, driver: str, installation_id: str) -> None:
    """Let the object have another id: only while no record was made with the one it has.

    :raises ApiError: it cannot be changed.
    """
    item = api.get(f"{PATH}/{driver}")
    item["spec"]["installationID"] = installation_id
    api.replace(f"{PATH}/{driver}", item)


def _id_of(item: Object) -> str:
    found = (item.get("spec") or {}).get("installationID")
    if not found:
        raise StoreCorrupt(
            f"The CinderInstallation {item['metadata']['name']} has no installationID",
            advice="Restore it from a backup: every id of the cluster is made of it",
        )
    return str(found)
