"""Real disks for tests: files, loop devices, filesystems and mounts, undone whatever happens.

Made with losetup, mkfs and mount, and not with the project's own code: what a test examines must
not prepare the test.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

MIB = 1 << 20
EXT_BYTES = 64 * MIB
XFS_BYTES = 320 * MIB
"""mkfs.xfs makes nothing below 300 MiB."""


def command(*args: str) -> str:
    """Run a program that must succeed; its output."""
    return subprocess.run(args, check=True, capture_output=True, text=True).stdout.strip()


def sparse_file(path: Path, size: int) -> Path:
    """A file of `size` zero bytes that takes no room."""
    path.touch()
    os.truncate(path, size)
    return path


def copy(source: Path, target: Path) -> Path:
    """A copy of a disk as it is now, as a backend clones it."""
    command("cp", "--sparse=always", "--reflink=auto", str(source), str(target))
    return target


@contextlib.contextmanager
def loop_device(file: Path, *, readonly: bool = False) -> Iterator[str]:
    """A loop device of `file`."""
    mode = ["--read-only"] if readonly else []
    device = command("losetup", "--find", "--show", *mode, str(file))
    try:
        yield device
    finally:
        # Only while it still is this file's: a test may have detached it.
        if command("losetup", "--noheadings", "--output", "NAME", "--associated", str(file)) or (
            str(file) in command("losetup", "--list", "--noheadings", "--output", "BACK-FILE")
        ):
            subprocess.run(["losetup", "--detach", device], check=False, capture_output=True)


@contextlib.contextmanager
def mounted(device: str, mountpoint: Path, fs_type: str, *options: str) -> Iterator[Path]:
    """`device` mounted at `mountpoint`, which is made if need be."""
    mountpoint.mkdir(exist_ok=True)
    chosen = ["-o", ",".join(options)] if options else []
    command("mount", "-t", fs_type, *chosen, device, str(mountpoint))
    try:
        yield mountpoint
    finally:
        subprocess.run(["umount", str(mountpoint)], check=False, capture_output=True)


def make_filesystem(device: str, fs_type: str, uuid: str = "") -> None:
    """A filesystem made by somebody else than the project."""
    if fs_type == "xfs":
        command("mkfs.xfs", "-q", *(["-m", f"uuid={uuid}"] if uuid else []), device)
    else:
        command(f"mkfs.{fs_type}", "-q", *(["-U", uuid] if uuid else []), device)


def write_at(path: Path | str, offset: int, content: bytes) -> None:
    """Put bytes into a file or a device, past the page cache of others."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(descriptor, content, offset)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
