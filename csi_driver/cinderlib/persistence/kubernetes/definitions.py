"""Whether the installed custom resource definitions are those that this version needs.

The plugin never installs them: the chart does, or ``kubectl apply -f manifests/crds.yaml``.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from csi_driver.base.errors import ConfigurationError
from csi_driver.cinderlib.persistence.kubernetes.resources import (
    RESOURCES,
    SCHEMA,
    SCHEMA_ANNOTATION,
)
from csi_driver.kube.api import Api
from csi_driver.kube.errors import ApiNotFound
from csi_driver.kube.group import API_VERSION, GROUP

_DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

_ADVICE = (
    "Install those of this version with the chart, or by"
    " kubectl apply --server-side -f manifests/crds.yaml"
)


def names() -> list[str]:
    """The definitions' names: what the controller's role may read."""
    others = ("cinderinstallations", "cindernodes", "cinderconfirmations")
    return [f"{name}.{GROUP}" for name in (*(each.plural for each in RESOURCES), *others)]


def check(api: Api) -> None:
    """Refuse to work with definitions that would lose fields.

    Newer ones are accepted: they keep all that this version writes.

    :raises ConfigurationError: says which are missing or too old, and what to do.
    :raises ApiError: they cannot be read.
    """
    with ThreadPoolExecutor(len(names())) as pool:
        schemas = dict(
            zip(names(), pool.map(lambda name: _schema(api, name), names()), strict=True)
        )
    missing = [name for name, number in schemas.items() if number is None]
    old = [
        f"{name} (schema {number})"
        for name, number in schemas.items()
        if number is not None and (not number.isdigit() or int(number) < SCHEMA)
    ]
    if missing:
        raise ConfigurationError(
            f"The cluster lacks the custom resource definitions {', '.join(missing)}",
            advice=_ADVICE,
        )
    if old:
        raise ConfigurationError(
            f"The cluster's custom resource definitions {', '.join(old)} are older than"
            f" {API_VERSION} schema {SCHEMA}",
            advice=_ADVICE,
        )


def _schema(api: Api, name: str) -> str | None:
    """The number of a definition's schema, as its annotation has it; None: not installed."""
    try:
        found = api.get(f"{_DEFINITIONS}/{name}")
    except ApiNotFound:
        return None
    return str((found["metadata"].get("annotations") or {}).get(SCHEMA_ANNOTATION, "0"))
