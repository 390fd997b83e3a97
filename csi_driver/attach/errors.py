"""What can go wrong between connection info and a usable block device.

Raised by ``attach`` and, for devices and commands, by ``node``; mapped to gRPC
codes in :mod:`csi_driver.rpc.errors`.
"""

from __future__ import annotations

from csi_driver.base.errors import CinderCSIError


class CommandFailed(CinderCSIError):
    """A command ended with an exit code that does not mean success.

    :param command: the command line for people; secrets are blotted out.
    :param returncode: its exit code; negative: the signal that ended it.
    :param stderr: the last lines that it said, on one line; standard output comes first.
    """

    def __init__(
        self, command: str, returncode: int, stderr: str, *, advice: str | None = None
    ) -> None:
        ending = f"exit code {returncode}" if returncode >= 0 else f"signal {-returncode}"
        super().__init__(f"{command}: {ending}: {stderr or 'it said nothing'}", advice=advice)
        self.command = command
        self.returncode = returncode
        self.stderr = stderr


class CommandTimeout(CinderCSIError):
    """A command took longer than it may and was killed."""

    advice = "Look for a device or server that does not answer; the call may be retried"


class CommandMissing(CinderCSIError):
    """A program that is needed is not installed on this node."""


class AttachFailed(CinderCSIError):
    """The volume did not become a device on this node; nothing was left behind."""

    advice = "Check the path from this node to the storage; the call may be retried"


class DetachFailed(CinderCSIError):
    """The device of the volume could not be removed from this node."""

    advice = "The device is still there: find what uses it; the call may be retried"


class ConnectorPropertiesFailed(CinderCSIError):
    """This node cannot tell how backends reach it (initiator name, addresses)."""

    advice = "Check that the node's storage services (iscsid, multipathd) run"


class UnsupportedTransport(CinderCSIError):
    """This node has no way to attach what the connection info describes."""

    advice = "Choose a backend whose transport gives block devices or raw files"


class UnsupportedImage(CinderCSIError):
    """The volume is a file in a format that the kernel cannot use as a disk."""

    advice = "Configure the backend for raw files, for example nfs_qcow2_volumes = false"


class LoopDeviceFailed(CinderCSIError):
    """A loop device could not be made, read or resized."""

    advice = "Check that the node plugin sees the host's /dev and that loop devices are allowed"


class LoopDeviceBusy(CinderCSIError):
    """A loop device is still in use and was not removed."""

    advice = "Unmount it or end what holds it open; the call may be retried"


class DeviceReadError(CinderCSIError):
    """A device is missing or cannot be read where it must be readable."""

    advice = "Nothing was written; check the storage and the path to it"


class EncryptionFailed(CinderCSIError):
    """An encrypted device cannot be made, opened or closed."""

    advice = "The kernel needs dm-crypt, and this host cryptsetup"


class NotEncrypted(EncryptionFailed):
    """A device that has to have a LUKS header has none; nothing was written."""

    advice = "Its content may be damaged, or it is another device; restore a snapshot or the header"


class WrongKey(EncryptionFailed):
    """The key does not open the device."""

    advice = "Give the key that the volume was first attached with"


class DeviceWriteError(CinderCSIError):
    """A device cannot be written, or not be flushed."""

    advice = "Check the paths to the backend and the kernel's log"


class DeviceSizeMismatch(CinderCSIError):
    """A device is smaller than the volume is recorded to be."""

    advice = "Nothing was written; check that the backend presents the right volume"


class DeviceIdentityMismatch(CinderCSIError):
    """A device is not the one that the volume is recorded to be."""

    advice = "Nothing was written; look for a stale path that another volume took over"


class AmbivalentSignatures(CinderCSIError):
    """What a device holds cannot be told: the probes contradict each other."""

    advice = "Nothing was written; look at the device with wipefs --no-act and blkid -p"
