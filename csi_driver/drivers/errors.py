"""What can go wrong with volume files.

Raised by the modules of this package that know no Cinder; :mod:`csi_driver.drivers.file`
turns each into the exception that a Cinder driver raises in that case.
"""

from __future__ import annotations

from csi_driver.base.errors import CinderCSIError


class VolumeFileError(CinderCSIError):
    """A volume file or its directory cannot be used as it should."""

    advice = "Check the volume directory, its permissions and its disk"


class VolumeDirectoryAway(VolumeFileError):
    """The volume directory is not the one that holds the volumes; nothing was changed."""

    advice = (
        "Mount the filesystem that holds the volumes; if the directory was replaced on purpose,"
        " start the driver again"
    )


class UnsafeName(VolumeFileError):
    """The name of a volume or snapshot would not be a plain file name."""

    advice = "Use letters, digits, dots, dashes and underscores, beginning with a letter or digit"


class VolumeFileMissing(VolumeFileError):
    """There is no file of this volume or snapshot."""

    advice = "Check that the volume directory is the one that the volume was made in"


class VolumeFileExists(VolumeFileError):
    """There is a file of this name already; nothing is ever overwritten."""

    advice = "Use another name, or find out who put it there"


class NotAdoptable(VolumeFileError):
    """A file may not be taken over as a volume or snapshot; it was not touched."""

    advice = "Only raw files that belong to no volume can be imported"


class VolumeFileBusy(VolumeFileError):
    """The file is in use in a way that the operation cannot go along with."""

    advice = "Retry when the volume is detached"


class PoolFull(VolumeFileError):
    """The disk has no room for what the operation would promise."""

    advice = "Delete volumes or snapshots, or give the volume directory a larger disk"
