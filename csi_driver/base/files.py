"""Small files that survive a crash: written whole, flushed, then named.

Used for keys, node state and the file ledger.  A reader sees the old content or
the new, never a part; after a return the content is on disk.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from csi_driver.base.errors import StateDirectoryError


def read_text(path: Path) -> str | None:
    """The text of ``path``, or None when there is no such file.

    :raises StateDirectoryError: the file is there and cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise StateDirectoryError(f"{path} cannot be read: {error}") from error


def write_atomic(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace ``path`` by ``content``; durable when this returns.

    :raises StateDirectoryError: it cannot be written; the old file is untouched.
    """
    _write(path, content, mode, replace=True)


def write_new(path: Path, content: bytes, mode: int = 0o600) -> bool:
    """Make ``path`` with ``content`` unless it exists; True when made here."""
    return _write(path, content, mode, replace=False)


def remove(path: Path) -> None:
    """Remove ``path`` durably; nothing happens when it is not there.

    :raises StateDirectoryError: it cannot be removed.
    """
    try:
        path.unlink()
        _sync_directory(path.parent)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise StateDirectoryError(f"{path} cannot be removed: {error}") from error


def _write(path: Path, content: bytes, mode: int, *, replace: bool) -> bool:
    temporary = None
    try:
        _make_directory(path.parent)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name[:64]}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        if replace:
            os.replace(temporary, path)
            temporary = None
        else:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
        _sync_directory(path.parent)
    except OSError as error:
        raise StateDirectoryError(f"{path} cannot be written: {error}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
    return True


def _make_directory(directory: Path) -> None:
    """Make the directory and its parents; each new name is on disk too."""
    if directory.is_dir():
        return
    _make_directory(directory.parent)
    directory.mkdir(exist_ok=True, mode=0o700)
    _sync_directory(directory.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
