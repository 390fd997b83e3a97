"""The records of a driver, as they are in the API server."""

from __future__ import annotations

import json
from typing import Any

from csi_driver.cinderlib.persistence import codec
from csi_driver.cinderlib.persistence.kubernetes import objects
from csi_driver.cinderlib.persistence.kubernetes.resources import RESOURCES
from csi_driver.kube.group import of_driver
from tests.cluster.apiserver import ApiServer


def kept(server: ApiServer, driver: str, kind: str) -> list[dict[str, Any]]:
    """The records of a kind, as JSON; sealed fields as they are stored."""
    (resource,) = (each for each in RESOURCES if kind == each.record.KIND)
    found, _ = server.admin.list(resource.path, of_driver(driver))
    records = (objects.to_record(resource.record, item) for item in found)
    return [json.loads(codec.encode(record)) for record in records]
