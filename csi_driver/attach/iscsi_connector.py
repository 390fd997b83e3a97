"""os-brick's iSCSI connector, without passwords on command lines.

Loaded by os-brick, which is told of it by :mod:`csi_driver.attach.brick`; nobody else
imports this, because it imports os-brick.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from os_brick.initiator.connectors import iscsi

from csi_driver.attach import iscsi_records

_DISCOVERY = "discovery.sendtargets.auth."


class ISCSIConnector(iscsi.ISCSIConnector):  # type: ignore[misc]
    """Writes passwords into open-iscsi's records; iscsiadm does the rest."""

    def _iscsiadm_update(
        self,
        connection_properties: Mapping[str, Any],
        property_key: str,
        property_value: str,
        **kwargs: Any,
    ) -> Any:
        if not property_key.endswith(("password", "password_in")):
            return super()._iscsiadm_update(
                connection_properties, property_key, property_value, **kwargs
            )
        iscsi_records.write_node_secret(
            connection_properties["target_portal"],
            connection_properties["target_iqn"],
            property_key,
            property_value,
        )
        return "", ""

    def _run_iscsiadm_update_discoverydb(
        self, connection_properties: Mapping[str, Any], iscsi_transport: str = "default"
    ) -> Any:
        """The original with the password left out; its exit code 6 means: no record yet."""
        portal = connection_properties["target_portal"]
        told = self._execute(
            *("iscsiadm", "-m", "discoverydb", "-t", "sendtargets"),
            *("-I", iscsi_transport, "-p", portal, "--op", "update"),
            *("-n", f"{_DISCOVERY}authmethod"),
            *("-v", connection_properties["discovery_auth_method"]),
            *("-n", f"{_DISCOVERY}username"),
            *("-v", connection_properties["discovery_auth_username"]),
            run_as_root=True,
            root_helper=self._root_helper,
        )
        iscsi_records.write_discovery_secret(
            portal, f"{_DISCOVERY}password", connection_properties["discovery_auth_password"]
        )
        return told
