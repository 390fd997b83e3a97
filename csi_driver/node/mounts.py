"""Mounts of this host: read from mountinfo, changed by mount(8) and umount(8).

Used by the stage, publish and unstage steps.  Every change is proved in mountinfo
afterwards, nothing is ever mounted over a mount, and nothing is unmounted lazily:
a lazy unmount leaves the device busy behind a clean-looking path.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from csi_driver.attach.processes import Completed, Secret, run
from csi_driver.node.errors import MountFailed, TargetBusy, UnmountFailed

# A remount of a bind mount sets every per-mount flag anew: these must be repeated.
_PER_MOUNT_FLAGS = frozenset(
    ("nosuid", "nodev", "noexec", "noatime", "nodiratime", "relatime", "nosymfollow")
)
# ext4 keeps "rw" when an error made it read-only, and answers from its cache when it
# was shut down; kernels from 6.13 on say so beside it.
_READ_ONLY_FILESYSTEM = frozenset(("ro", "emergency_ro"))
_SHUT_DOWN = "shutdown"
_DEAD_ERRNOS = frozenset(
    (errno.EIO, errno.ENOTCONN, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ESHUTDOWN)
)
_MAX_LAYERS = 64
_ANY_EXIT_CODE = range(-64, 256)


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo, see proc(5).

    ``device`` is "major:minor" of the filesystem; ``root`` the directory or file
    of it that is visible at ``path``; ``options`` are per mount, ``super_options``
    per filesystem.
    """

    id: int
    parent: int
    device: str
    root: str
    path: str
    options: tuple[str, ...]
    fs_type: str
    source: str
    super_options: tuple[str, ...]

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written through this mount."""
        return "ro" in self.options or not _READ_ONLY_FILESYSTEM.isdisjoint(self.super_options)

    def __str__(self) -> str:
        return f"{self.source} ({self.fs_type}, device {self.device}, {self.root}) at {self.path}"


def parse_mountinfo(text: bytes) -> list[Mount]:
    """The mounts in the text of /proc/PID/mountinfo, in its order.

    :raises ValueError: a line is not as proc(5) describes it.
    """
    return [_parse_line(line) for line in text.split(b"\n") if line]


def _parse_line(line: bytes) -> Mount:
    # Separated by exactly one blank; a field may be empty, blanks in it are escaped.
    before, separator, after = line.partition(b" - ")
    if not separator:
        raise ValueError(f"no separator in mountinfo line {line!r}")
    number, parent, device, root, path, options = before.split(b" ")[:6]
    fs_type, source, super_options = [*after.split(b" "), b""][:3]
    return Mount(
        id=int(number),
        parent=int(parent),
        device=device.decode(),
        root=_unescape(root),
        path=_unescape(path),
        options=tuple(_unescape(options).split(",")),
        fs_type=_unescape(fs_type),
        source=_unescape(source),
        super_options=tuple(_unescape(super_options).split(",")),
    )


def _unescape(field: bytes) -> str:
    """Undo the kernel's octal escapes (blank, tab, newline, backslash, hash)."""
    if b"\\" not in field:
        return os.fsdecode(field)
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8) & 0xFF]), field))


def layers_at(mounts: Sequence[Mount], path: str) -> list[Mount]:
    """The mounts at exactly ``path``, the visible one last.

    More than one is a stack: each but the lowest has the one below as parent.
    """
    pending = {mount.id: mount for mount in mounts if mount.path == path}
    layers: list[Mount] = []
    while pending:
        lowest = next(
            (m for m in pending.values() if m.parent not in pending or m.parent == m.id),
            next(iter(pending.values())),
        )
        layers.append(pending.pop(lowest.id))
    return layers


def real_path(path: str) -> str:
    """``path`` with its parents resolved, as mountinfo names it; the last part is kept."""
    lexical = Path(os.path.normpath(path))
    return str(Path(os.path.realpath(lexical.parent), lexical.name))


def list_mounts() -> list[Mount]:
    """All mounts that this process sees.

    The kernel (5.8 and later) keeps a cursor: concurrent changes hide no mount.
    """
    return parse_mountinfo(Path("/proc/self/mountinfo").read_bytes())


def find(path: str) -> Mount | None:
    """The topmost mount at exactly ``path``; None when nothing is mounted there."""
    layers = layers_at(list_mounts(), real_path(path))
    return layers[-1] if layers else None


def mounts_of_device(device: str) -> list[Mount]:
    """Every mount of the filesystem on the block device "major:minor"."""
    return [mount for mount in list_mounts() if mount.device == device]


def device_number(path: str) -> str:
    """ "major:minor" of the block device node ``path``; '' when it is none.

    A missing node and one that cannot be looked at count as none.
    """
    try:
        status = Path(path).stat()
    except OSError:
        return ""
    if not stat.S_ISBLK(status.st_mode):
        return ""
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


def is_dead(mount: Mount) -> bool:
    """Whether a mount just read cannot be used any more: its device failed or is gone."""
    if _SHUT_DOWN in mount.super_options:
        return True
    if not mount.device.startswith("0:") and not Path("/sys/dev/block", mount.device).exists():
        return True
    try:
        with os.scandir(mount.path) as entries:
            next(entries, None)
    except NotADirectoryError:
        return False
    except OSError as error:
        return error.errno in _DEAD_ERRNOS
    return False


def mount(source: str, target: str, fs_type: str, options: Collection[str] = ()) -> Mount:
    """Mount the block device ``source`` at the directory ``target``.

    :raises MountFailed: mount(8) refused (its words are given, the options are
        not: they may hold secrets), or it mounted something else.
    """
    arguments = ["mount", "-t", fs_type]
    if options:
        arguments += ["-o", Secret(",".join(options))]
    _mount([*arguments, source, target], source, target)
    made = find(target)
    if made is None or made.device != device_number(source):
        raise MountFailed(f"{source} was mounted, but at {target} is {made or 'nothing'}")
    return made


def bind(source: str, target: str, readonly: bool = False) -> Mount:
    """Make the file or directory ``source`` visible at ``target`` too.

    :param readonly: nothing can be written through ``target``; the other flags of
        the source's mount are kept.
    :raises MountFailed: mount(8) refused, or something else is at ``target``.
    """
    _mount(["mount", "--bind", source, target], source, target)
    made = find(target)
    if made is not None and readonly:
        keep = [flag for flag in made.options if flag in _PER_MOUNT_FLAGS]
        options = ",".join(["remount", "bind", "ro", *keep])
        _mount(["mount", "-o", options, target], source, target)
        made = find(target)
    if made is None or (readonly and not made.read_only):
        raise MountFailed(f"{source} was bound, but at {target} is {made or 'nothing'}")
    return made


def _mount(arguments: Sequence[str], source: str, target: str) -> None:
    result = run(arguments, ok=_ANY_EXIT_CODE)
    if result.returncode:
        raise MountFailed(f"{source} cannot be mounted at {target}: {_words(result)}")


def unmount(target: str) -> None:
    """Unmount every layer at ``target``, proved in mountinfo; nothing there is fine.

    :raises TargetBusy: it is used; the message names the processes.
    :raises UnmountFailed: umount(8) refused for another reason.
    """
    path = real_path(target)
    for _ in range(_MAX_LAYERS):
        top = find(path)
        if top is None:
            return
        # The path is real already; umount(8) must not touch a dead filesystem to resolve it.
        result = run(["umount", "--no-canonicalize", path], ok=_ANY_EXIT_CODE)
        now = find(path)
        if result.returncode and now is not None and now.id == top.id:
            if "busy" in result.stderr:
                raise TargetBusy(f"{top} is busy: {describe_holders(top.device)}")
            raise UnmountFailed(f"{top} cannot be unmounted: {_words(result)}")
    raise UnmountFailed(f"{path} is still a mount point after {_MAX_LAYERS} unmounts")


def _words(result: Completed) -> str:
    """What mount(8) or umount(8) said, as one line without "see dmesg" hints."""
    lines = [line.strip() for line in result.stderr.splitlines()]
    said = [line for line in lines if line and not line.startswith("dmesg(1)")]
    return "; ".join(said)[:500] or f"exit code {result.returncode}"


def describe_holders(device: str) -> str:
    """Which processes keep the filesystem on "major:minor" in use, for people.

    Read without a stat of anything below the mount: a dead device must not hang it.
    """
    holders = [text for pid in _pids() if (text := _describe_holder(pid, device))]
    if not holders:
        return "no process holds it; a mount below it or the kernel does"
    more = f" and {len(holders) - 5} more" if len(holders) > 5 else ""
    return "held by " + ", ".join(holders[:5]) + more


def _pids() -> Iterator[Path]:
    return (entry for entry in Path("/proc").iterdir() if entry.name.isdecimal())


def _describe_holder(process: Path, device: str) -> str:
    try:
        mounts = parse_mountinfo((process / "mountinfo").read_bytes())
        ids = {str(mount.id) for mount in mounts if mount.device == device}
        if not ids:
            return ""
        paths = tuple(m.path for m in mounts if m.device == device)
        name = (process / "comm").read_text(errors="replace").strip()
        if any(_is_below(_link(process / link), paths) for link in ("cwd", "root", "exe")):
            return f"process {process.name} ({name})"
        if any(_mount_id(info) in ids for info in (process / "fdinfo").iterdir()):
            return f"process {process.name} ({name})"
        if _link(process / "ns/mnt") != _link(Path("/proc/self/ns/mnt")):
            return f"the mount namespace of process {process.name} ({name})"
    except OSError:
        return ""  # the process ended meanwhile
    return ""


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


def _is_below(path: str, parents: Sequence[str]) -> bool:
    return any(path == parent or path.startswith(f"{parent}/") for parent in parents)


def _mount_id(fdinfo: Path) -> str:
    try:
        text = fdinfo.read_text()
    except OSError:
        return ""
    match = re.search(r"^mnt_id:\s*(\d+)$", text, re.MULTILINE)
    return match[1] if match else ""
