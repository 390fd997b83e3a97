"""Mounts and loop devices that a test has left below its directory: told, and released.

A test that fails half-way must not spoil the machine for the next one, and one that passes must
have left nothing: both ask here.
"""

import json
import subprocess
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")


def mounts_below(directory: Path) -> list[Path]:
    """The mount points at or below `directory`, the latest first, which is the order of undoing."""
    points = [_unescape(line.split()[4]) for line in MOUNTINFO.read_text().splitlines()]
    return [point for point in reversed(points) if point.is_relative_to(directory)]


def loop_devices_below(directory: Path) -> list[str]:
    """The loop devices whose backing file lies, or lay, below `directory`."""
    listing = subprocess.run(
        ["losetup", "--json", "--list", "--output", "NAME,BACK-FILE"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    devices = json.loads(listing)["loopdevices"] if listing.strip() else []
    return [
        device["name"]
        for device in devices
        if Path(device["back-file"].removesuffix(" (deleted)")).is_relative_to(directory)
    ]


def release(directory: Path) -> list[str]:
    """Unmount and detach everything below `directory`; returns what there was."""
    found = []
    for point in mounts_below(directory):
        found.append(f"mount {point}")
        unmount = subprocess.run(["umount", str(point)], check=False, capture_output=True)
        if unmount.returncode != 0:  # busy: a process of the test may still be ending
            subprocess.run(["umount", "--lazy", str(point)], check=True)
    for device in loop_devices_below(directory):
        found.append(f"loop device {device}")
        subprocess.run(["losetup", "--detach", device], check=True)
    return found


def _unescape(text: str) -> Path:
    """A path as mountinfo writes it: space, tab, newline and backslash are octal (proc(5))."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return Path(text)
