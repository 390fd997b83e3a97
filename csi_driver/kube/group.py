"""The names of the API group, for all who read or write its objects."""

from __future__ import annotations

GROUP = "cinderlib.io"
VERSION = "v1"
API_VERSION = f"{GROUP}/{VERSION}"
CATEGORY = "cinderlib"
"""``kubectl get cinderlib`` shows all of the kinds; the word clashes with nobody's."""

DRIVER_LABEL = f"{GROUP}/driver"
"""Label with the CSI driver name: several installations share the definitions."""


def collection(plural: str) -> str:
    """The path of a cluster-scoped collection of the group."""
    return f"/apis/{API_VERSION}/{plural}"


def of_driver(driver: str) -> dict[str, str]:
    """The query that finds the objects of one driver."""
    return {"labelSelector": f"{DRIVER_LABEL}={driver}"}
