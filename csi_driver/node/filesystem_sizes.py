"""What the superblock of a filesystem says: its size, and whether it is finished.

Called by :mod:`csi_driver.node.filesystems`.  Read directly, with a few fields of
a published disk format, instead of from the text output of dumpe2fs and xfs_db:
it is asked at every stage and every expansion, and needs no process.
"""

from __future__ import annotations

import fcntl
import os
import struct
from dataclasses import dataclass

from csi_driver.attach import devices
from csi_driver.attach.errors import DeviceReadError
from csi_driver.node.filesystem_errors import FilesystemMismatch

_SUPERBLOCK_BYTES = 4096
_EXT_MAGIC = 0xEF53
_EXT_INCOMPAT_64BIT = 0x80
_XFS_MAGIC = b"XFSB"
_XFS_IN_PROGRESS = 126
# xfs_fs.h: XFS_IOC_FSGEOMETRY_V1 and the start of struct xfs_fsop_geom_v1.
_XFS_GEOMETRY = 0x80705864
_XFS_GEOMETRY_BYTES = 112

# mke2fs and resize2fs leave out a last block group that would have fewer blocks
# than its own tables plus this many.
_EXT_SPARE_BLOCKS = 50
# XFS_MIN_AG_BLOCKS: a new allocation group must have as many blocks.
_XFS_LEAST_GROUP_BLOCKS = 64


@dataclass(frozen=True, kw_only=True)
class FilesystemSize:
    """``size_bytes`` now; growing by less than ``least_growth_bytes`` is not possible."""

    size_bytes: int
    least_growth_bytes: int

    def can_grow_to(self, device_bytes: int) -> bool:
        """Whether the filesystem would get larger on a device of that many bytes."""
        missing = device_bytes - self.size_bytes
        return missing > 0 and missing >= self.least_growth_bytes


def ext_size(device: str) -> FilesystemSize:
    """Of ext3 and ext4, mounted or not.

    The kernel keeps the superblock of a mounted ext4 in the device's page cache,
    so this is read through the cache.

    :raises DeviceReadError: the device cannot be read.
    :raises FilesystemMismatch: there is no such filesystem.
    """
    return parse_ext(device, _cached(device))


def xfs_size(device: str, mountpoint: str | None) -> FilesystemSize:
    """Of xfs; of a mounted one the kernel is asked, as it writes the superblock late.

    :raises DeviceReadError: the device cannot be read or the kernel cannot be asked.
    :raises FilesystemMismatch: there is no such filesystem.
    """
    if mountpoint is None:
        return parse_xfs(device, devices.read_direct(device, 0, _SUPERBLOCK_BYTES))
    try:
        descriptor = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            raw = fcntl.ioctl(descriptor, _XFS_GEOMETRY, bytes(_XFS_GEOMETRY_BYTES))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DeviceReadError(
            f"The size of the filesystem at {mountpoint} cannot be asked: {error.strerror}"
        ) from error
    block_bytes = struct.unpack_from("=I", raw, 0)[0]
    return _xfs(struct.unpack_from("=Q", raw, 32)[0], block_bytes)


def xfs_is_unfinished(device: str) -> bool:
    """Whether mkfs.xfs began and did not come to its end; the kernel does not mount it.

    :raises DeviceReadError: the device cannot be read.
    """
    head = devices.read_direct(device, 0, _SUPERBLOCK_BYTES)
    return head[:4] == _XFS_MAGIC and head[_XFS_IN_PROGRESS] != 0


def parse_ext(device: str, head: bytes) -> FilesystemSize:
    """From the first 4 KiB of a device (ext4 disk layout, "Super Block").

    :raises FilesystemMismatch: it is no ext superblock.
    """
    block = head[1024:2048]
    if len(block) < 1024 or struct.unpack_from("<H", block, 0x38)[0] != _EXT_MAGIC:
        raise FilesystemMismatch(f"{device} has no ext superblock")
    low, first, log_size, per_group, inodes = (
        struct.unpack_from("<I", block, offset)[0] for offset in (0x04, 0x14, 0x18, 0x20, 0x28)
    )
    inode_bytes, reserved = (struct.unpack_from("<H", block, offset)[0] for offset in (0x58, 0xCE))
    wide = struct.unpack_from("<I", block, 0x60)[0] & _EXT_INCOMPAT_64BIT
    blocks = low | (struct.unpack_from("<I", block, 0x150)[0] << 32 if wide else 0)
    block_bytes = 1024 << log_size
    at_group_end = (blocks - first) % per_group == 0
    # Inode table, two bitmaps, superblock, descriptors and their reserve.
    tables = inodes * inode_bytes // block_bytes + 3 + reserved + 1
    least = tables + _EXT_SPARE_BLOCKS if at_group_end else 1
    return FilesystemSize(size_bytes=blocks * block_bytes, least_growth_bytes=least * block_bytes)


def parse_xfs(device: str, head: bytes) -> FilesystemSize:
    """From the first sector of a device (XFS disk structures, "Superblocks").

    :raises FilesystemMismatch: it is no XFS superblock.
    """
    if head[:4] != _XFS_MAGIC:
        raise FilesystemMismatch(f"{device} has no xfs superblock")
    block_bytes, blocks = struct.unpack_from(">IQ", head, 4)
    return _xfs(blocks, block_bytes)


def _xfs(blocks: int, block_bytes: int) -> FilesystemSize:
    return FilesystemSize(
        size_bytes=blocks * block_bytes, least_growth_bytes=_XFS_LEAST_GROUP_BLOCKS * block_bytes
    )


def _cached(device: str) -> bytes:
    try:
        with open(device, "rb", buffering=0) as file:  # noqa: PTH123 - a device node
            return file.read(_SUPERBLOCK_BYTES) or b""
    except OSError as error:
        raise DeviceReadError(f"{device} cannot be read: {error.strerror}") from error
