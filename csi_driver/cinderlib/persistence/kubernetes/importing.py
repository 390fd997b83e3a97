"""The beginning of an import into a cluster: before there is a store that could be opened.

Used by ``cli``.  A store makes a CinderInstallation when there is none; an import brings its
own, and before it the marker of :mod:`~csi_driver.cinderlib.persistence.importing`, so that no
controller ever takes an installation without its records for a whole one.
"""

from __future__ import annotations

import datetime
import secrets

from csi_driver.cinderlib.persistence import importing
from csi_driver.cinderlib.persistence.importing import Import
from csi_driver.cinderlib.persistence.kubernetes import definitions, installations, objects
from csi_driver.cinderlib.persistence.kubernetes.resources import KEY_VALUE, RESOURCES
from csi_driver.cinderlib.persistence.records import KeyValueRecord
from csi_driver.cinderlib.persistence.store import RecordConflict
from csi_driver.kube.api import Api
from csi_driver.kube.errors import ApiNotFound
from csi_driver.kube.group import of_driver


def begin(api: Api, driver: str, this: Import, installation_id: str) -> None:
    """Set the marker, and then the CinderInstallation; nothing if both are there.

    :raises RecordConflict: there is another installation, or there are records of it.
    :raises ConfigurationError: definitions are missing or too old.
    :raises ApiError: the API server does not take them; to be begun again.
    """
    definitions.check(api)
    found = installations.find(api, driver)
    if found not in (None, installation_id):
        raise _of_another(driver, installation_id, str(found))
    there = _marker(api, driver)
    importing.require_room(this, there, lambda: _counts(api, driver))
    if there is None:
        version = secrets.randbits(53) or 1
        now = datetime.datetime.now(datetime.UTC)
        api.create(KEY_VALUE.path, objects.to_object(this.record(), version, driver, None, now))
    found, _ = installations.make(api, driver, installation_id)
    if found != installation_id:
        raise _of_another(driver, installation_id, found)


def refuse_unfinished(api: Api, driver: str) -> None:
    """Refuse to begin records of a driver in the middle of an import.

    :raises ConfigurationError: an import was begun.
    :raises ApiError: whether one was cannot be read.
    """
    importing.refuse(_marker(api, driver))


def _marker(api: Api, driver: str) -> KeyValueRecord | None:
    name = objects.object_name(KEY_VALUE, driver, importing.MARKER)
    try:
        return objects.to_record(KeyValueRecord, api.get(f"{KEY_VALUE.path}/{name}"))
    except ApiNotFound:
        return None


def _counts(api: Api, driver: str) -> dict[str, int]:
    found = {each.record.KIND: api.list(each.path, of_driver(driver))[0] for each in RESOURCES}
    return {kind: len(items) for kind, items in found.items() if items}


def _of_another(driver: str, wanted: str, found: str) -> RecordConflict:
    return RecordConflict(
        f"The CinderInstallation {driver} is {found}, the records are of {wanted}",
        advice="If nothing of that installation is needed, delete the object, and import again;"
        " nothing was changed",
    )
