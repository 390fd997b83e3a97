"""May a filesystem be made here?  The decision, without any effect.

Called by ``node`` through :mod:`csi_driver.node.filesystems` with what the record
says and what the device shows.  The record decides and the device may veto: mkfs
needs a record that says "never formatted" *and* a device that shows nothing but
zeros, or our own unfinished filesystem.  Whatever else is found is an error that
says why, because a wrong guess here destroys data.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from csi_driver.base.values import Formatting, FormattingState
from csi_driver.node.filesystem_errors import (
    FilesystemMismatch,
    FilesystemTypeConflict,
    ForeignSignature,
    FormattedButBlank,
    NotBlank,
    NotFormatted,
    UnsupportedFilesystem,
)

SUPPORTED = ("ext4", "ext3", "xfs")
"""Filesystem types that can be made, checked, mounted and grown."""

DEFAULT = "ext4"
"""The type for a volume when neither the request nor the record names one."""


@dataclass(frozen=True, kw_only=True)
class Probed:
    """What a device shows.

    ``fs_type`` and ``uuid``: its one supported filesystem, '' if it shows none.  A
    ``uuid`` alone: a filesystem with it was begun and left without a signature.
    ``blank``: no signature at all, and the first and last MiB read zero.
    ``foreign``: types of every other signature.
    """

    fs_type: str = ""
    uuid: str = ""
    blank: bool = False
    foreign: tuple[str, ...] = ()

    def describe(self) -> str:
        """For a message: what was found, in a few words."""
        if self.blank:
            return "nothing but zeros"
        own = (f"{self.fs_type} {self.uuid}",) if self.fs_type else ()
        return " and ".join((*own, *self.foreign)) or "bytes without a signature"


_UNKNOWN_ORIGIN = "imported, restored from a backup, or copied while a node lost its source"


class Action(StrEnum):
    """What is to be done with the device before it is mounted."""

    MAKE = "make"
    USE = "use"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The outcome: make a filesystem of this type and UUID, or use the one there.

    ``remake_if_damaged``: the filesystem to use is one that we made and that
    nobody ever got; when it does not check out it may be made again.
    """

    action: Action
    fs_type: str
    uuid: str
    remake_if_damaged: bool = False


def decide(formatting: Formatting, wanted_fs_type: str, probed: Probed) -> Decision:
    """What to do with a device that is to be mounted.

    :param formatting: what the record says.
    :param wanted_fs_type: what the request asks for; '' leaves it open.
    :raises UnsupportedFilesystem: the type asked for, recorded or found is not supported.
    :raises ForeignSignature: never formatted, but something of others is there.
    :raises NotBlank: never formatted, but bytes without a signature are there.
    :raises FormattedButBlank: formatted, but no filesystem is there.
    :raises FilesystemMismatch: formatted, but another filesystem is there.
    :raises FilesystemTypeConflict: another type is asked for than is there.
    :raises NotFormatted: not to be formatted, and no filesystem is there.
    """
    if wanted_fs_type and wanted_fs_type not in SUPPORTED:
        raise UnsupportedFilesystem(f"Filesystem type {wanted_fs_type!r} is not supported")
    if formatting.state is FormattingState.NEVER:
        return _never_formatted(formatting, wanted_fs_type, probed)
    if formatting.state is FormattingState.FORMATTED:
        return _formatted(formatting, wanted_fs_type, probed)
    return _not_to_be_formatted(formatting, wanted_fs_type, probed)


def _never_formatted(formatting: Formatting, wanted: str, probed: Probed) -> Decision:
    fs_type = wanted or formatting.fs_type or DEFAULT
    make = Decision(action=Action.MAKE, fs_type=fs_type, uuid=formatting.fs_uuid)
    if fs_type not in SUPPORTED:
        raise UnsupportedFilesystem(f"Filesystem type {fs_type!r} is not supported")
    if probed.blank:
        return make
    if _same(probed.uuid, formatting.fs_uuid) and not probed.foreign:
        # An earlier stage made it and did not get to say so: nobody has used it.
        if probed.fs_type != fs_type:
            return make
        return Decision(
            action=Action.USE, fs_type=fs_type, uuid=probed.uuid, remake_if_damaged=True
        )
    if probed.fs_type or probed.foreign:
        raise ForeignSignature(
            f"The volume was never formatted by this driver but holds {probed.describe()}"
        )
    raise NotBlank("The volume was never formatted but its first or last MiB is not zero")


def _formatted(formatting: Formatting, wanted: str, probed: Probed) -> Decision:
    recorded = f"{formatting.fs_type} {formatting.fs_uuid}".strip() or "a filesystem"
    _refuse_other_type(wanted, formatting.fs_type)
    if not probed.fs_type and not probed.foreign:
        raise FormattedButBlank(f"The volume should hold {recorded} but holds {probed.describe()}")
    same_type = probed.fs_type == (formatting.fs_type or probed.fs_type)
    same_uuid = not formatting.fs_uuid or _same(probed.uuid, formatting.fs_uuid)
    if not probed.fs_type or not same_type or not same_uuid:
        raise FilesystemMismatch(f"The volume should hold {recorded} but holds {probed.describe()}")
    _refuse_other_type(wanted, probed.fs_type)
    return Decision(action=Action.USE, fs_type=probed.fs_type, uuid=probed.uuid)


def _not_to_be_formatted(formatting: Formatting, wanted: str, probed: Probed) -> Decision:
    unknown = formatting.state is FormattingState.UNKNOWN
    origin = _UNKNOWN_ORIGIN if unknown else "used as a block device"
    if probed.fs_type:
        _refuse_other_type(wanted, probed.fs_type)
        return Decision(action=Action.USE, fs_type=probed.fs_type, uuid=probed.uuid)
    if probed.foreign:
        raise UnsupportedFilesystem(f"The volume was {origin} and holds {probed.describe()}")
    raise NotFormatted(
        f"The volume was {origin}, so it is not formatted here; it holds {probed.describe()}"
    )


def _refuse_other_type(wanted: str, held: str) -> None:
    if wanted and held and wanted != held:
        raise FilesystemTypeConflict(f"The volume holds {held}, not {wanted}")


def _same(left: str, right: str) -> bool:
    return bool(left) and left.lower() == right.lower()
