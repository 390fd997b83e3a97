"""From Cinder's connection info to a block device of this host, and back.

Called by ``node`` to stage, unstage and expand, and by the object layer to attach
a volume to its own host.  os-brick does the transports; added here is what a node
must be able to rely on: the result is always a block device (a file becomes a loop
device), a failed attach leaves nothing, a detach is verified, and both may be
repeated.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import socket
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csi_driver.attach import brick, devices, loop
from csi_driver.attach.errors import (
    AttachFailed,
    ConnectorPropertiesFailed,
    DetachFailed,
    UnsupportedImage,
    UnsupportedTransport,
)
from csi_driver.base.errors import CinderCSIError

LOG = logging.getLogger(__name__)

# After a detach the kernel's device must be gone. Not asked of the others: "local" only
# echoes a path, files have no device of their own, and an NVMe-oF namespace may
# stay visible until the backend takes it from a subsystem that volumes share.
_DEVICE_GOES = frozenset({"iscsi", "iser", "fibre_channel", "rbd"})

_BLOCK = Path("/sys/dev/block")
_QCOW2_MAGIC = b"QFI\xfb"
_HEAD_BYTES = 4096

# Keys that this module adds to os-brick's device_info.
_FILE = "csi_file"
_LOOP = "csi_loop"
_OWNER = "csi_loop_owner"
_SET_READ_ONLY = "csi_set_read_only"
_DISKS = "csi_disks"
_OWN_KEYS = frozenset({_FILE, _LOOP, _OWNER, _SET_READ_ONLY, _DISKS})


Execute = Callable[..., tuple[str, str]]
"""Runs a command like ``oslo_concurrency.processutils.execute``: its output and errors."""

DEVICE_SCAN_ATTEMPTS = 3
"""os-brick's default."""


@dataclass(frozen=True, kw_only=True)
class AttachSettings:
    """What attaching needs to know of its host.

    :param lock_path: directory for os-brick's lock files.
    :param root_helper: command prefix for privileged commands; not used as root.
    :param host: name under which backends know this host; None takes the host name.
    :param my_ip: address that backends may export to; '' takes the one that the
        default route uses.
    :param multipath: use several paths to a volume where there are several.
    :param enforce_multipath: refuse to work without multipathd instead of using one path.
    :param device_scan_attempts: how often os-brick looks for the device.
    """

    lock_path: Path
    root_helper: str = "sudo"
    host: str | None = None
    my_ip: str = ""
    multipath: bool = False
    enforce_multipath: bool = False
    device_scan_attempts: int = DEVICE_SCAN_ATTEMPTS


@dataclass(frozen=True, kw_only=True)
class AttachedDevice:
    """A volume as a block device.

    :param path: the block device.
    :param device_info: what :meth:`Attacher.disconnect` needs; safe for JSON.
    :param loop: the loop device made for it, the same as ``path``; '' if none was.
    """

    path: str
    device_info: dict[str, Any]
    loop: str = ""


class Attacher:
    """Attaches and detaches volumes.  Thread-safe.

    os-brick is loaded at the first use.  Its connectors hold no state, so each call
    makes its own; os-brick serialises by lock files what must be serial.
    """

    def __init__(self, settings: AttachSettings) -> None:
        self._settings = settings

    def connector_properties(self, execute: Execute | None = None) -> dict[str, Any]:
        """What backends need to know of this host, as Cinder's drivers expect it.

        Without root only the host's name and address: initiators cannot be asked for,
        and nothing could be attached anyway.

        :param execute: runs commands in place of os-brick, which then is asked without
            root too.
        :raises ConnectorPropertiesFailed: multipath is enforced and multipathd is away,
            or the host cannot be asked.
        """
        settings = self._settings
        if os.geteuid() != 0 and execute is None:
            LOG.warning("Without root no volume can be attached to this host")
            return {
                "platform": platform.machine(),
                "os_type": sys.platform,
                "ip": settings.my_ip or _own_address(),
                "host": settings.host or socket.gethostname(),
                "multipath": False,
            }
        multipath = self._multipath(ConnectorPropertiesFailed, execute)
        self._prepare()
        from os_brick.initiator import connector

        try:
            properties = connector.get_connector_properties(
                settings.root_helper,
                settings.my_ip or _own_address(),
                multipath,
                settings.enforce_multipath,
                host=settings.host,
                execute=execute,
            )
        except Exception as error:
            raise ConnectorPropertiesFailed(
                f"The connector properties of this host cannot be told: {_sentence(error)}"
            ) from error
        return _json_safe({**properties, "do_local_attach": True})

    def brick_connector(self, connection: Mapping[str, Any]) -> Any:
        """os-brick's connector object for a connection, as :meth:`connect` uses it.

        :raises UnsupportedTransport: os-brick has none for it here.
        """
        kind, data = _parts(connection)
        return self._connector(kind, data, multipath=self._settings.multipath)

    def connect(self, connection: Mapping[str, Any], *, owner: str = "") -> AttachedDevice:
        """Attach a volume; ``access_mode`` 'ro' in the data makes a read-only device.

        Do not call it twice for one attachment: call :meth:`disconnect` first if it is
        not known how an earlier call ended, or :meth:`remove_remains` of its owner.

        :param connection: Cinder's connection info, ``{"driver_volume_type", "data"}``.
        :param owner: names this attempt to attach, where a volume that is a file may be
            attached several times to one host.
        :raises AttachFailed: it did not become a device; nothing was left behind.
        :raises UnsupportedTransport: os-brick has no connector for it here.
        :raises UnsupportedImage: it is a file that is not raw.
        :raises LoopDeviceFailed: no loop device could be made.
        """
        kind, data = _parts(connection)
        connector = self._connector(kind, data, multipath=self._multipath(AttachFailed))
        with _translated(AttachFailed, f"A volume by {kind} was not attached"):
            told = connector.connect_volume(data)
        device_info = _json_safe(told if isinstance(told, Mapping) else {})
        try:
            return _usable(kind, data, device_info, owner)
        except CinderCSIError:
            # os-brick gave a device that cannot be used. Force is harmless: nobody had it.
            with contextlib.suppress(Exception):
                connector.disconnect_volume(data, told, force=True, ignore_errors=True)
            raise

    def disconnect(
        self,
        connection: Mapping[str, Any],
        device_info: Mapping[str, Any],
        *,
        force: bool = False,
    ) -> None:
        """Detach a volume; nothing happens when it is not attached.

        :param device_info: from :meth:`connect`; empty when it is not known (a crash
            between attaching and noting it): everything made for the volume goes then.
        :param force: detach even if cached data cannot be written out; it is lost.
        :raises LoopDeviceBusy: its loop device is in use.
        :raises DetachFailed: a device could not be removed.
        """
        kind, data = _parts(connection)
        # With or without multipathd: a map that is there must go.
        connector = self._connector(kind, data, multipath=self._settings.multipath)
        file = device_info.get(_FILE) or _file_of(kind, data, connector)
        if file:
            loop.detach_made_for(
                Path(file), owner=device_info.get(_OWNER, ""), only=device_info.get(_LOOP, "")
            )
        path, disks = str(device_info.get("path", "")), list(device_info.get(_DISKS, ()))
        if device_info.get(_SET_READ_ONLY) and disks and _disks(path)[:1] == disks[:1]:
            devices.set_read_only(path, False)
        told = {key: value for key, value in device_info.items() if key not in _OWN_KEYS}
        with _translated(DetachFailed, f"A volume by {kind} was not detached"):
            connector.disconnect_volume(data, told or None, force=force, ignore_errors=False)
        if kind in _DEVICE_GOES and (left := [disk for disk in disks if _is_there(disk)]):
            raise DetachFailed(f"After detaching {path} these disks are still there: {left}")

    def remove_remains(self, owner: str) -> None:
        """Remove what a :meth:`connect` for this owner made and nobody heard of.

        That is a loop device; a device of a host by its transport is found again by the
        next ``connect``.

        :raises LoopDeviceBusy: it is in use.
        """
        loop.detach_made_by(owner)

    def extend(self, connection: Mapping[str, Any], device_info: Mapping[str, Any]) -> int:
        """Let the host see the volume's new size; answers it in bytes.

        :param device_info: from :meth:`connect`.
        :raises AttachFailed: not every path shows the new size.
        :raises LoopDeviceFailed: the loop device cannot be resized.
        :raises DeviceReadError: the device is away.
        """
        if device_info.get(_LOOP):
            return loop.refresh_size(device_info[_LOOP])
        kind, data = _parts(connection)
        connector = self._connector(kind, data, multipath=self._settings.multipath)
        with _translated(AttachFailed, f"A volume by {kind} does not show its new size"):
            size = connector.extend_volume(data)
        return int(size) if size else devices.size_bytes(str(device_info.get("path", "")))

    def _prepare(self) -> None:
        brick.prepare(self._settings.lock_path, self._settings.root_helper)

    def _connector(self, kind: str, data: Mapping[str, Any], *, multipath: bool) -> Any:
        self._prepare()
        from os_brick import exception
        from os_brick.initiator import connector

        try:
            return connector.InitiatorConnector.factory(
                kind,
                self._settings.root_helper,
                use_multipath=multipath,
                device_scan_attempts=self._settings.device_scan_attempts,
                # Ceph: a kernel block device instead of a Python file object.
                do_local_attach=True,
                conn=data,
            )
        except (exception.InvalidConnectorProtocol, exception.ProtocolNotSupported) as error:
            raise UnsupportedTransport(f"No connector for {kind!r} on this host") from error
        except Exception as error:
            raise AttachFailed(f"No connector for {kind!r}: {_sentence(error)}") from error

    def _multipath(self, failure: type[CinderCSIError], execute: Execute | None = None) -> bool:
        """Whether to use several paths now: os-brick waits in vain without multipathd.

        :raises failure: multipath is enforced and multipathd is away.
        """
        if not self._settings.multipath:
            return False
        self._prepare()
        from os_brick.initiator import linuxscsi

        helper = self._settings.root_helper
        running: bool = linuxscsi.LinuxSCSI.is_multipath_running(helper, execute)
        if not running and self._settings.enforce_multipath:
            raise failure(
                "Multipath is enforced, but multipathd does not answer on this host",
                advice="Start multipathd, or allow single paths",
            )
        return running


def _parts(connection: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    kind = connection.get("driver_volume_type")
    data = connection.get("data")
    if not isinstance(kind, str) or not isinstance(data, Mapping):
        raise UnsupportedTransport("The connection info names no driver_volume_type or no data")
    # os-brick changes what it is given.
    return kind.lower(), dict(data)


def _usable(
    kind: str, data: Mapping[str, Any], device_info: dict[str, Any], owner: str
) -> AttachedDevice:
    """A block device out of what os-brick connected."""
    path = str(device_info.get("path", ""))
    readonly = data.get("access_mode") == "ro"
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - a device node
    except OSError as error:
        raise AttachFailed(
            f"The volume by {kind} has no device at {path!r}: {error.strerror}"
        ) from error
    if stat.S_ISREG(mode):
        _require_raw(kind, data, path)
        device = loop.attach(Path(path), readonly=readonly, owner=owner)
        device_info = {**device_info, _FILE: path, _LOOP: device}
        if owner:
            device_info[_OWNER] = owner
        return AttachedDevice(path=device, device_info=device_info, loop=device)
    if not stat.S_ISBLK(mode):
        raise UnsupportedTransport(f"{path} is neither a block device nor a file")
    device_info = {**device_info, _DISKS: _disks(path)}
    if readonly and not devices.is_read_only(path):
        devices.set_read_only(path, True)
        device_info[_SET_READ_ONLY] = True
    return AttachedDevice(path=path, device_info=device_info)


def _require_raw(kind: str, data: Mapping[str, Any], path: str) -> None:
    """Refuse image formats that a loop device would show as they are.

    The connection info is believed where it tells the format.  The content is asked
    only of shares that mix formats: a user of a raw volume can write any magic.
    """
    told = data.get("format")
    if told is None and kind != "local":
        head = devices.read_direct(path, 0, _HEAD_BYTES)
        told = "qcow2" if head.startswith(_QCOW2_MAGIC) else "raw"
    if told not in (None, "raw"):
        raise UnsupportedImage(f"The volume is a file of format {told}: {path}")


def _file_of(kind: str, data: Mapping[str, Any], connector: Any) -> str:
    """Where a volume that is a file lies when no device_info tells; '' for others."""
    if kind == "local":
        return str(data.get("device_path", ""))
    share = getattr(connector, "_remotefsclient", None)
    if share is not None and "export" in data and "name" in data:
        # A digest of the export below the mount base; nothing is mounted for this.
        return f"{share.get_mount_point(data['export'])}/{data['name']}"
    return ""


def _disks(path: str) -> list[str]:
    """The disk behind a path and those that it is made of, by names never given again.

    Device numbers and ``sdX`` names go to another disk at once.  The kernel's disk
    sequence number (5.15 or newer) does not; without it nothing is said.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 - a device node
    except OSError:
        return []
    disk = _BLOCK / f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    numbers = [disk.name, *(_read(slave / "dev") for slave in sorted(disk.glob("slaves/*")))]
    named = ((number, _read(_BLOCK / number / "diskseq")) for number in numbers)
    return [f"{number} {sequence}" for number, sequence in named if sequence]


def _is_there(disk: str) -> bool:
    number, sequence = disk.split()
    return _read(_BLOCK / number / "diskseq") == sequence


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


@contextlib.contextmanager
def _translated(failure: Callable[[str], CinderCSIError], what: str) -> Iterator[None]:
    """Turn whatever os-brick raises into an error of this project."""
    try:
        yield
    except CinderCSIError:
        raise
    except Exception as error:
        LOG.debug("os-brick: %s", what, exc_info=True)
        raise failure(f"{what}: {_sentence(error)}") from error


def _sentence(error: Exception) -> str:
    """One line of an exception, without passwords."""
    from oslo_utils import strutils

    if isinstance(error, KeyError):
        return f"the connection info has no {error}"
    stderr = getattr(error, "stderr", "") or ""
    text = " ".join((stderr or str(error)).split())
    masked: str = strutils.mask_password(text or type(error).__name__)
    return masked[:400].rstrip(".")


def _json_safe(mapping: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(mapping, default=str))
    return plain


def _own_address() -> str:
    """The address that this host uses for the default route; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # TEST-NET-1 of RFC 5737: routed like any other address, never answered.
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"
