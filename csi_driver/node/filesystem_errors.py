"""What speaks against using, making, checking or growing a filesystem.

Raised by :mod:`csi_driver.node.filesystems` and its parts.  Each says what was
found and what was expected; in none of these cases was anything written.
"""

from __future__ import annotations

from csi_driver.base.errors import CinderCSIError


class UnsupportedFilesystem(CinderCSIError):
    """A filesystem type that this driver does not make or mount."""

    advice = "Choose ext4, ext3 or xfs as csi.storage.k8s.io/fstype"


class ForeignSignature(CinderCSIError):
    """A volume that was never formatted holds something of another origin."""

    advice = (
        "Nothing was written. Find out whose data it is;"
        " an administrator can wipe the volume with wipefs"
    )


class NotBlank(CinderCSIError):
    """A volume that was never formatted holds bytes that no probe understands."""

    advice = (
        "Nothing was written. An administrator can zero the first and last MiB,"
        " or declare that new volumes of this backend hold old bytes"
    )


class FormattedButBlank(CinderCSIError):
    """A volume that holds a filesystem by its record looks blank."""

    advice = (
        "Nothing was written and nothing will be formatted."
        " Check the storage and the path to it; restore the volume from a snapshot or a backup"
    )


class NotFormatted(CinderCSIError):
    """A volume that must not be formatted holds no filesystem."""

    advice = "Use the volume with volumeMode: Block, or make the filesystem by hand"


class FilesystemMismatch(CinderCSIError):
    """The filesystem on the device is not the one that the record names."""

    advice = "Nothing was written; check that the backend presents the right volume"


class FilesystemTypeConflict(CinderCSIError):
    """Another filesystem type is asked for than the volume has."""

    advice = "Ask for the type that the volume has, or for none"


class FilesystemNotMade(CinderCSIError):
    """mkfs failed; it runs again when the call is repeated."""

    advice = "Check the mkfs options and the size of the volume"


class FilesystemDamaged(CinderCSIError):
    """A filesystem has errors that are not repaired without a person."""


class JournalNotReplayed(CinderCSIError):
    """A filesystem was not left cleanly, and its device is read-only."""

    advice = (
        "Stage the volume once with a writing access mode, so that the journal is replayed;"
        " or ask for the mount option norecovery (xfs) or noload (ext3, ext4),"
        " which shows an older state without what the journal holds"
    )


class FilesystemNotGrown(CinderCSIError):
    """A filesystem could not be made as large as its device."""

    advice = "The data is untouched; the call may be retried"


class GrowNotPermitted(CinderCSIError):
    """The kernel does not let this process grow a mounted filesystem."""

    advice = (
        "ext3 and ext4 need CAP_SYS_RESOURCE in the node plugin to grow while mounted;"
        " without it the filesystem grows when the volume is staged again"
    )
