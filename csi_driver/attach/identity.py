"""Whose device is this: names that storage gives to a volume, in one spelling.

Used through :mod:`csi_driver.attach.devices`.  A path may come to show another
volume (a LUN number reused, a stale path), so a node compares before it
writes.  The same name is spelt ``0x6000...``, ``36000...``, ``naa.6000...`` or
``mpath-36000...`` by drivers, udev, SCSI and device-mapper; here it is always
``naa.6000...``.  Kinds: ``naa.``, ``eui.`` (NVMe NGUID and EUI-64 too), ``t10.``,
``uuid.``, ``nvme.``, ``serial.`` and, for files, ``file:<Cinder volume id>``.
"""

from __future__ import annotations

import os
import re
import stat
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from csi_driver.attach import loop
from csi_driver.attach.errors import DeviceIdentityMismatch, DeviceReadError

XATTR = "user.cinderlib.volume_id"
"""Extended attribute in which the file driver keeps the Cinder id of a volume."""

_SYSFS = Path("/sys")
_PREFIXES = ("naa.", "eui.", "t10.", "uuid.", "nvme.", "serial.", "file:")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HEX = re.compile(r"[0-9a-f]+")
_NAA_LENGTHS = {"2": 16, "3": 16, "5": 16, "6": 32}

# Keys of Cinder's connection data that name the volume itself, and what kind of
# name they hold ('' where the value tells).  ``wwn``: Pure and others, SCSI;
# ``volume_nguid``, ``vol_uuid``: os-brick's NVMe-oF connector.
_KEYS = (
    ("identity", ""),
    ("wwn", ""),
    ("device_wwn", ""),
    ("volume_nguid", "eui."),
    ("vol_uuid", "uuid."),
)


def normalise(text: str, kind: str = "") -> str:
    """One spelling for a name; '' for a name that says nothing (all zero).

    :param kind: the prefix to give when the caller knows what kind it is.
    """
    name = " ".join(text.lower().split()).removeprefix("mpath-")
    if name.startswith(_PREFIXES):
        return name
    name = name.removeprefix("0x")
    bare = name.replace("-", "").replace(":", "")
    if not bare.strip("0"):
        return ""
    if not kind and _UUID.fullmatch(name):
        return f"uuid.{name}"
    if kind == "uuid." and len(bare) == 32 and _HEX.fullmatch(bare):
        return f"uuid.{uuid.UUID(bare)}"
    if kind:
        return kind + bare
    return _from_hex(bare) if _HEX.fullmatch(bare) else name


def identities_of(path: str) -> tuple[str, ...]:
    """Every name that the device goes by, the most telling first.

    An NVMe namespace may have an NGUID and a UUID, and a backend tells only one.

    :raises DeviceReadError: there is no such device.
    :raises DeviceIdentityMismatch: the paths of a multipath device disagree.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 - a device node, not a file to work with
    except OSError as error:
        raise DeviceReadError(f"{path} cannot be looked at: {error.strerror}") from error
    if not stat.S_ISBLK(status.st_mode):
        return _names(_file_identity(Path(path)))
    number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    return identities_in_sysfs(path, (_SYSFS / "dev/block" / number).resolve())


def identity_of(path: str) -> str:
    """The name to keep for the device; '' when it has none.

    :raises DeviceReadError: there is no such device.
    :raises DeviceIdentityMismatch: the paths of a multipath device disagree.
    """
    return next(iter(identities_of(path)), "")


def expected_identity(connection: Mapping[str, Any]) -> str:
    """The name that Cinder's connection info gives to the device; '' if it gives none.

    :param connection: ``{"driver_volume_type": ..., "data": {...}}``.
    """
    data = connection.get("data") or {}
    for key, kind in _KEYS:
        value = data.get(key)
        if isinstance(value, str) and (name := normalise(value, kind)):
            return name
    return ""


def _from_hex(digits: str) -> str:
    """A SCSI name from bare digits, with or without udev's leading kind digit.

    NAA names are 16 digits, or 32 where they begin with 6; udev and multipath put a
    3 before a NAA name and a 2 before an EUI-64.
    """
    if len(digits) in (17, 33) and digits[0] in "23":
        kind, digits = digits[0], digits[1:]
        return ("naa." if kind == "3" else "eui.") + digits
    if _NAA_LENGTHS.get(digits[0]) == len(digits):
        return f"naa.{digits}"
    return f"eui.{digits}" if len(digits) in (16, 32) else digits


def identities_in_sysfs(path: str, block: Path) -> tuple[str, ...]:
    """Every name that sysfs tells of a block device, the most telling first.

    :param path: the device, for messages.
    :param block: its directory in sysfs, such as ``/sys/devices/.../block/sda``.
    :raises DeviceIdentityMismatch: the paths of a multipath device disagree.
    """
    name = block.name
    if name.startswith("loop"):
        backing = loop.backing_file(f"/dev/{name}")
        if backing is None or backing.deleted:
            return ()
        return _names(_file_identity(backing.path, (backing.device_number, backing.inode)))
    if name.startswith("dm-"):
        return _mapper_identities(path, block)
    nvme = (
        normalise(_read(block / "nguid"), "eui."),
        normalise(_read(block / "uuid"), "uuid."),
        normalise(_read(block / "eui").replace(" ", ""), "eui."),
    )
    wwid = normalise(_read(block / "wwid") or _read(block / "device/wwid"))
    serial = _read(block / "serial")
    return _names(*nvme, wwid, f"serial.{serial.lower()}" if serial else "")


def _mapper_identities(path: str, block: Path) -> tuple[str, ...]:
    """Names of a device-mapper device: those that all devices below it share.

    Only multipath and crypt devices stand for one volume; a logical volume does not.
    """
    mapped = _read(block / "dm/uuid")
    if not mapped.startswith(("mpath-", "CRYPT-")):
        return ()
    below = {
        slave.name: identities_in_sysfs(f"/dev/{slave.name}", slave.resolve())
        for slave in sorted((block / "slaves").glob("*"))
    }
    if len(set(below.values())) > 1:
        told = "; ".join(f"{name}: {' / '.join(names)}" for name, names in below.items())
        raise DeviceIdentityMismatch(f"The paths of {path} are different devices: {told}")
    own = normalise(mapped) if mapped.startswith("mpath-") else ""
    return _names(own, *next(iter(below.values()), ()))


def _file_identity(file: Path, expected: tuple[int, int] | None = None) -> str:
    """From the extended attribute; '' without one or when the file was replaced."""
    try:
        status = file.stat()
        if expected is not None and (status.st_dev, status.st_ino) != expected:
            return ""
        return f"file:{os.getxattr(file, XATTR).decode('ascii').lower()}"
    except (OSError, UnicodeDecodeError):
        return ""


def _names(*names: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in names if name))


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""
