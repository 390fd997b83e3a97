"""Fields of protobuf messages, read and refused when malformed.

Called by the modules that make typed requests.  Every message about a field names
the field as the CSI specification does.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from csi_driver.base.errors import InvalidRequest
from csi_driver.base.values import AccessMode, AccessType, VolumeCapability
from csi_driver.rpc._generated import csi_pb2 as pb

NAME_CHARACTERS = 128
"""Longest name in characters (CSI, CreateVolumeRequest.name)."""

_MODES = {
    pb.VolumeCapability.AccessMode.Mode.Value(mode): mode  # by their numbers on the wire
    for mode in AccessMode
}

MAP_BYTES = 4096
"""Largest map<string,string> in bytes, keys and values together (CSI, Size Limits)."""


def name(text: str, field: str = "name") -> str:
    """A CSI name: any Unicode but control characters.

    :raises InvalidRequest: empty, too long or with a control character.
    """
    required(text, field)
    if len(text) > NAME_CHARACTERS:
        raise InvalidRequest(f"{field} has {len(text)} characters, more than {NAME_CHARACTERS}")
    for position, character in enumerate(text) if not text.isprintable() else ():
        if unicodedata.category(character) == "Cc":
            raise InvalidRequest(
                f"{field} has the control character U+{ord(character):04X} at {position}"
            )
    return text


def required(text: str, field: str) -> str:
    """A field that must not be empty.

    :raises InvalidRequest: it is.
    """
    if not text:
        raise InvalidRequest(f"{field} is missing")
    return text


def string_map(given: Iterable[tuple[str, str]], field: str) -> dict[str, str]:
    """A map field within the size that CSI allows.

    :raises InvalidRequest: it is larger.
    """
    found = dict(given)
    size = sum(len(key.encode()) + len(value.encode()) for key, value in found.items())
    if size > MAP_BYTES:
        raise InvalidRequest(f"{field} has {size} bytes, more than {MAP_BYTES}")
    return found


def capability(message: pb.VolumeCapability) -> VolumeCapability:
    """A volume capability.

    :raises InvalidRequest: access type or access mode is missing or unknown.
    """
    kind = message.WhichOneof("access_type")
    if kind is None:
        raise InvalidRequest("volume_capability has no access_type", advice="Set mount or block")
    try:
        mode = _MODES[message.access_mode.mode]
    except KeyError:
        raise InvalidRequest(
            f"volume_capability has an unknown access_mode ({message.access_mode.mode})",
            advice=f"Access modes: {', '.join(AccessMode)}",
        ) from None
    if kind == "block":
        return VolumeCapability(access_type=AccessType.BLOCK, mode=mode)
    return VolumeCapability(
        access_type=AccessType.MOUNT,
        mode=mode,
        fs_type=message.mount.fs_type,
        mount_flags=tuple(message.mount.mount_flags),
        volume_mount_group=message.mount.volume_mount_group,
    )


def one_capability(
    request: pb.ControllerPublishVolumeRequest
    | pb.NodeStageVolumeRequest
    | pb.NodePublishVolumeRequest,
) -> VolumeCapability:
    """The one capability of a request.

    :raises InvalidRequest: it is missing or malformed.
    """
    if not request.HasField("volume_capability"):
        raise InvalidRequest("volume_capability is missing")
    return capability(request.volume_capability)


def path(text: str, field: str) -> str:
    """An absolute path.

    :raises InvalidRequest: missing, relative, or with a control character.
    """
    required(text, field)
    if not text.startswith("/") or any(unicodedata.category(c) == "Cc" for c in text):
        raise InvalidRequest(f"{field} {text!r} is not an absolute path")
    return text


def capacity_range(
    request: pb.CreateVolumeRequest | pb.ControllerExpandVolumeRequest | pb.NodeExpandVolumeRequest,
) -> dict[str, int]:
    """Bytes of capacity_range; a range that is there must say something."""
    if not request.HasField("capacity_range"):
        return {"required_bytes": 0, "limit_bytes": 0}
    given = request.capacity_range
    if not given.required_bytes and not given.limit_bytes:
        raise InvalidRequest(
            "capacity_range holds no size", advice="Set required_bytes to more than 0"
        )
    if given.required_bytes < 0 or given.limit_bytes < 0:
        raise InvalidRequest(
            f"capacity_range holds a negative size ({given.required_bytes}, {given.limit_bytes})",
            advice="Sizes are bytes, greater than 0",
        )
    return {"required_bytes": given.required_bytes, "limit_bytes": given.limit_bytes}
