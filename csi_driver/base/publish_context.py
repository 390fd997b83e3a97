"""The publish_context: sealed by the controller, opened by the one node it was made for.

``controller`` calls :func:`seal` in ControllerPublishVolume, ``node`` calls
:func:`open_context` in NodeStageVolume.  The orchestrator keeps the map in clear
text for as long as the volume is attached (Kubernetes: in etcd), and connection
info holds CHAP passwords: hence one sealed value, bound to driver, volume and node.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from csi_driver.base.errors import CinderCSIError, InvalidRequest, SealError
from csi_driver.base.masking import SECRETS
from csi_driver.base.sealing import KeyRing
from csi_driver.base.values import PublishContext

KEY = "sealed"
"""The one key of the map."""

LIMIT_BYTES = 4096
"""CSI, "Size Limits": all keys and values of a map<string, string> together."""

# Fibre Channel zoning data.  os-brick uses it only to scan fewer targets per HBA;
# with the target list alone it scans all of them, so a node can do without.
_DISPENSABLE = ("initiator_target_map", "initiator_target_lun_map")


class PublishContextTooLarge(CinderCSIError):
    """The connection info does not fit into the 4 KiB that CSI allows."""

    advice = "Let the backend present the volume through fewer portals or targets"


def seal(context: PublishContext, keys: KeyRing, driver_name: str) -> dict[str, str]:
    """The publish_context map of a ControllerPublishVolume answer.

    Nonces are random: two calls differ, so keep the answer for a retry.

    :raises PublishContextTooLarge: over 4 KiB even without what a node can do without.
    """
    SECRETS.learn_named(context.connection)
    for candidate in (context, _without_dispensable(context)):
        text = keys.seal(
            msgspec.json.encode(candidate), (driver_name, context.volume_id, context.node_id)
        )
        size = len(KEY) + len(text)
        if size <= LIMIT_BYTES:
            return {KEY: text}
    raise PublishContextTooLarge(
        f"The connection info of volume {context.volume_id} takes {size} bytes;"
        f" CSI allows {LIMIT_BYTES}"
    )


def open_context(
    mapping: Mapping[str, str], keys: KeyRing, driver_name: str, volume_id: str, node_id: str
) -> PublishContext:
    """What :func:`seal` was given, for this driver, volume and node.

    :raises InvalidRequest: the map holds no sealed value.
    :raises SealError: damaged, made for something else, or the key is unknown.
    """
    text = mapping.get(KEY, "")
    if not text:
        raise InvalidRequest(
            f"The publish_context of volume {volume_id} has no {KEY!r} value",
            advice="Pass the publish_context that ControllerPublishVolume answered",
        )
    plain = keys.open(text, (driver_name, volume_id, node_id))
    try:
        context = msgspec.json.decode(plain, type=PublishContext)
    except msgspec.DecodeError as error:
        raise SealError(
            f"The publish_context of volume {volume_id} was made by another release: {error}"
        ) from error
    SECRETS.learn_named(context.connection)
    return context


def _without_dispensable(context: PublishContext) -> PublishContext:
    data: dict[str, Any] = dict(context.connection.get("data", {}))
    for name in _DISPENSABLE:
        data.pop(name, None)
    return msgspec.structs.replace(context, connection={**context.connection, "data": data})
