"""What a storage host has, brought up inside the lab kernel: volume group, target, initiator.

And what is left on it, for the tests that ask. Everything ends with the kernel.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

VOLUME_GROUP = "cinder-volumes"
SIZE_GIB = 12
"""Of the volume group, on a sparse file in memory: tests write far less."""

ARGUMENTS = Path("/run/lab/arguments")
"""Every command line of the programs below, one a line, since the kernel was started."""

_LIO = Path("/sys/kernel/config/target")

_LOGGED = ("iscsiadm", "cinder-rtstool", "multipath", "multipathd")

_LVM = """
devices { filter = [ "a|^/dev/loop|", "r|.*|" ] obtain_device_list_from_udev = 0 }
activation { monitoring = 0 }
backup { backup = 0 archive = 0 }
"""

_WRAPPER = """#!/bin/sh
printf '%s\\n' "{name} $*" >>{log}
exec {program} "$@"
"""


def run(*command: str, check: bool = True) -> str:
    """What a command says; with what it complains of when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def start(host: str) -> None:
    """A host with a name of its own for iSCSI, its daemon, and a watch over some programs."""
    run("hostname", host)
    Path("/etc/iscsi").mkdir(exist_ok=True)
    Path("/etc/iscsi/initiatorname.iscsi").write_text(
        f"InitiatorName=iqn.2026-01.io.cinderlib.lab:{host}\n"
    )
    ARGUMENTS.parent.mkdir(parents=True, exist_ok=True)
    ARGUMENTS.touch()
    for name in _LOGGED:
        _watch(name)
    os.environ["PATH"] = f"{ARGUMENTS.parent}:{os.environ['PATH']}"
    run("modprobe", "-a", "iscsi_tcp", "sd_mod", "xfs")
    run("iscsid")


def add_address(address: str) -> None:
    """Give the network device of this kernel an address."""
    run("ip", "address", "add", f"{address}/24", "dev", "vec0")
    run("ip", "link", "set", "vec0", "up")


def make_volume_group() -> None:
    """The volume group of the documents, and LIO."""
    Path("/etc/target").mkdir(exist_ok=True)
    Path("/etc/lvm/lvmlocal.conf").write_text(_LVM)
    run("modprobe", "-a", "dm_thin_pool", "dm_snapshot", "target_core_iblock", "iscsi_target_mod")
    disk = Path("/dev/shm/disk")
    disk.touch()
    os.truncate(disk, SIZE_GIB << 30)
    device = run("losetup", "--find", "--show", str(disk)).strip()
    run("vgcreate", VOLUME_GROUP, device)


def volumes() -> set[str]:
    """The logical volumes but the pool that they share."""
    told = run("lvs", "--noheadings", "-o", "lv_name", VOLUME_GROUP).split()
    return {name for name in told if not name.endswith("-pool")}


def exports() -> set[str]:
    """The targets, and the backstores below them, of LIO."""
    found = [*_LIO.glob("iscsi/iqn.*"), *_LIO.glob("core/iblock_*/*-*")]
    return {path.name for path in found}


def sessions() -> list[str]:
    """The iSCSI sessions of this host."""
    return [path.name for path in Path("/sys/class/iscsi_session").glob("session*")]


def disks() -> list[str]:
    """The SCSI disks and the multipath maps of this host."""
    maps = run("dmsetup", "ls", "--target", "multipath").split()
    found = [path.name for path in Path("/sys/block").glob("sd*")]
    return found + ([] if maps[:1] == ["No"] else maps)


def opened() -> list[str]:
    """What dm-crypt has open on this host."""
    identities = Path("/sys/block").glob("dm-*/dm/uuid")
    return [str(path) for path in identities if path.read_text().startswith("CRYPT-")]


def node_records() -> list[str]:
    """open-iscsi's records of targets."""
    return [str(path) for path in Path("/etc/iscsi/nodes").rglob("*") if path.is_file()]


def left() -> dict[str, object]:
    """What is left of volumes and attachments on this host; {} for nothing."""
    parts: dict[str, object] = {
        "volumes": volumes(),
        "exports": exports(),
        "sessions": sessions(),
        "disks": disks(),
        "opened": opened(),
        "records": node_records(),
    }
    return {name: found for name, found in parts.items() if found}


def arguments_with(text: str) -> list[str]:
    """The command lines of watched programs that hold a text."""
    return [line for line in ARGUMENTS.read_text().splitlines() if text in line]


def chap_passwords() -> set[str]:
    """Every CHAP password that LIO knows now."""
    found = _LIO.glob("iscsi/iqn.*/tpgt_*/acls/*/auth/password")
    return {path.read_text().strip() for path in found} - {"", "NULL"}


def _watch(name: str) -> None:
    program = subprocess.run(["which", name], capture_output=True, text=True, check=False).stdout
    if program:
        wrapper = ARGUMENTS.parent / name
        wrapper.write_text(_WRAPPER.format(name=name, log=ARGUMENTS, program=program.strip()))
        wrapper.chmod(0o755)
