"""Whether the installed custom resource definitions are those that this version needs.

The plugin never installs them: the chart does, or ``kubectl apply -f manifests/crds.yaml``.
"""

from __future__ import annotations

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
    missing, old = [], []
    for name in names():
        try:
            found = api.get(f"{_DEFINITIONS}/{name}")
        except ApiNotFound:
            missing.append(name)
            continue
        number = (found["metadata"].get("annotations") or {}).get(SCHEMA_ANNOTATION, "0")
        if not number.isdigit() or int(number) < SCHEMA:
            old.append(f"{name} (schema {number})")
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
