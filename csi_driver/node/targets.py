"""The target path of a publish: made here, and removed here once it is unmounted.

CSI leaves making and removing it to the driver: a directory for a mounted
filesystem, a file for a block device.  Only what is empty is ever used or
removed, and a symbolic link is never followed: it would lead a mount elsewhere.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from csi_driver.base.values import AccessType
from csi_driver.node.errors import TargetUnusable


def refuse_link(path: str) -> None:
    """Nothing may be mounted through a symbolic link.

    :raises TargetUnusable: ``path`` is one.
    """
    if Path(path).is_symlink():
        raise TargetUnusable(f"{path} is a symbolic link")


def prepare(target_path: str, access_type: AccessType) -> None:
    """Make the target path and its missing parents, or take what is there and empty.

    :raises TargetUnusable: something else is there, or it cannot be made.
    """
    refuse_link(target_path)
    target = Path(target_path)
    try:
        target.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        if access_type is AccessType.BLOCK:
            target.touch(mode=0o660, exist_ok=True)
        else:
            target.mkdir(mode=0o750, exist_ok=True)
    except OSError as error:
        raise TargetUnusable(f"{target_path} cannot be made: {error.strerror}") from error
    status = target.lstat()
    kind_fits = stat.S_ISREG if access_type is AccessType.BLOCK else stat.S_ISDIR
    if not kind_fits(status.st_mode) or not _is_empty(target, status):
        raise TargetUnusable(f"{target_path} is there and is not an empty {_kind(access_type)}")


def remove(target_path: str) -> None:
    """Remove the empty file or directory at the target path; nothing there is fine.

    :raises TargetUnusable: what is there is not empty, is a link, or cannot be removed.
    """
    refuse_link(target_path)
    target = Path(target_path)
    try:
        status = target.lstat()
        if stat.S_ISDIR(status.st_mode):
            target.rmdir()
        elif stat.S_ISREG(status.st_mode) and _is_empty(target, status):
            target.unlink()
        else:
            raise TargetUnusable(f"{target_path} is not an empty file or directory")
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise TargetUnusable(f"{target_path} cannot be removed: {error.strerror}") from error


def _is_empty(target: Path, status: os.stat_result) -> bool:
    if stat.S_ISDIR(status.st_mode):
        return not any(target.iterdir())
    return status.st_size == 0


def _kind(access_type: AccessType) -> str:
    return "file" if access_type is AccessType.BLOCK else "directory"
