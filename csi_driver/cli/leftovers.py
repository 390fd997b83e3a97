"""What a driver left behind on this machine, looked for outside of the driver.

Called by the demo when the driver process has ended: the proof reads the record
store, the directories, mountinfo and sysfs, not the driver's own answers.
"""

from __future__ import annotations

from pathlib import Path

from csi_driver.cinderlib.persistence.factory import open_store
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    SnapshotRecord,
    VolumeRecord,
)


def find(directory: Path, state_dir: Path) -> dict[str, list[str]]:
    """What is left, by kind; every list is empty when nothing is.

    :param directory: where the demo mounted.
    :param state_dir: the driver's state directory, not in use any more.
    :raises CinderCSIError: the store cannot be read.
    """
    return {
        "records": _records(state_dir),
        "files": _files(state_dir),
        "mounts": _mounts(directory),
        "loop devices": _loops(state_dir),
    }


def _records(state_dir: Path) -> list[str]:
    store = open_store("db", state_dir)
    try:
        return [
            f"{record.KIND} {record.id}"
            for kind in (VolumeRecord, SnapshotRecord, ConnectionRecord)
            for record in store.list(kind)
        ]
    finally:
        store.close()


def _files(state_dir: Path) -> list[str]:
    places = ("volumes", "confirmations", "node")
    return [
        str(path.relative_to(state_dir))
        for place in places
        for path in sorted((state_dir / place).rglob("*"))
        if path.is_file() and path.name != ".lock"  # the directory's own, empty
    ]


def _mounts(directory: Path) -> list[str]:
    points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return [point for point in points if point.startswith(f"{directory}/")]


def _loops(state_dir: Path) -> list[str]:
    found = []
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            backing = path.read_text().strip()
        except OSError:  # detached while we looked
            continue
        if backing.startswith(f"{state_dir}/"):
            found.append(f"{path.parts[3]} on {backing}")
    return found
