"""The connection that a kubeconfig file describes, for use outside of a cluster.

The only module that imports the official client: it knows every way in which a
kubeconfig may say who somebody is (files, inline data, exec plugins, tokens that are
renewed).  In a Pod nothing of it is loaded.
"""

from __future__ import annotations

from pathlib import Path

from csi_driver.base.errors import ConfigurationError
from csi_driver.kube.connection import Connection


def from_kubeconfig(path: Path, context: str | None = None) -> Connection:
    """The connection of a context of the file, by default of its current one.

    :raises ConfigurationError: the file, or that context, cannot be used.
    """
    try:
        from kubernetes.client import Configuration
        from kubernetes.config import ConfigException, kube_config
    except ImportError as error:
        raise ConfigurationError(
            "A kubeconfig needs the Python package kubernetes, which is not installed",
            advice="Install cinder-csi-driver[kubeconfig], or run in a Pod without --kubeconfig",
        ) from error
    configuration = Configuration()
    try:
        contexts, current = kube_config.list_kube_config_contexts(str(path))
        chosen = next((each for each in contexts if each["name"] == context), current)
        if context is not None and chosen["name"] != context:
            raise ConfigException(f"it has no context {context!r}")
        kube_config.load_kube_config(
            str(path), context=chosen["name"], client_configuration=configuration
        )
    except (ConfigException, OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"The kubeconfig {path} cannot be used: {error}",
            advice="Try it with kubectl --kubeconfig",
        ) from error
    if not configuration.verify_ssl:
        raise ConfigurationError(
            f"The kubeconfig {path} says insecure-skip-tls-verify",
            advice="Name the certificate-authority instead: secrets travel on this connection",
        )

    def authorization() -> str:
        settings = configuration.auth_settings()
        return str(settings["BearerToken"]["value"] or "") if "BearerToken" in settings else ""

    return Connection(
        server=configuration.host.rstrip("/"),
        namespace=chosen["context"].get("namespace") or "default",
        authorization=authorization,
        ca_file=configuration.ssl_ca_cert,
        client_certificate=configuration.cert_file,
        client_key=configuration.key_file,
    )
