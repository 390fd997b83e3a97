"""Mounts: reading mountinfo, and mounting and unmounting real filesystems."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_driver.attach import loop
from csi_driver.attach.processes import run
from csi_driver.node import mounts
from csi_driver.node.errors import MountFailed, TargetBusy, UnmountFailed
from csi_driver.node.mounts import Mount, layers_at, parse_mountinfo
from tests.support.leftovers import release

root = pytest.mark.root

LINE = rb"36 35 98:0 /mnt1 /mnt/a\040b rw,noatime master:1 shared:2 - ext4 /dev/root rw,errors=x"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory whose mounts and loop devices are released afterwards."""
    yield tmp_path
    release(tmp_path)


@pytest.fixture
def device(place: Path) -> str:
    """A loop device with an ext4 filesystem."""
    file = place / "disk"
    with file.open("wb") as disk:
        disk.truncate(32 << 20)
    run(["mkfs.ext4", "-q", str(file)])
    return loop.attach(file)


def directory(place: Path, name: str) -> str:
    path = place / name
    path.mkdir()
    return str(path)


# --- mountinfo -------------------------------------------------------------------------------


def test_every_field_of_a_line_is_read():
    (mount,) = parse_mountinfo(LINE + b"\n")
    assert mount == Mount(
        id=36,
        parent=35,
        device="98:0",
        root="/mnt1",
        path="/mnt/a b",
        options=("rw", "noatime"),
        fs_type="ext4",
        source="/dev/root",
        super_options=("rw", "errors=x"),
    )


def test_optional_fields_may_be_missing_and_the_source_empty():
    (mount,) = parse_mountinfo(b"22 1 0:5 / /proc rw - proc  rw")
    assert (mount.fs_type, mount.source, mount.super_options) == ("proc", "", ("rw",))


def test_a_line_without_separator_is_an_error():
    with pytest.raises(ValueError, match="separator"):
        parse_mountinfo(b"22 1 0:5 / /proc rw")


def escaped(path: str) -> bytes:
    # What the kernel does: seq_path with " \t\n\\#" escaped in octal.
    return b"".join(b"\\%03o" % c if c in b" \t\n\\#" else bytes([c]) for c in os.fsencode(path))


@given(
    path=st.binary(min_size=1).filter(lambda b: b"\0" not in b).map(lambda b: "/" + os.fsdecode(b))
)
def test_any_path_survives_the_kernels_escapes(path):
    line = b"1 0 8:1 / " + escaped(path) + b" rw shared:1 - ext4 " + escaped(path) + b" rw"
    (mount,) = parse_mountinfo(line)
    assert (mount.path, mount.source) == (path, path)


@pytest.mark.parametrize(
    ("options", "super_options", "expected"),
    [(("rw",), ("rw",), False), (("ro",), ("rw",), True), (("rw",), ("ro",), True)],
)
def test_a_mount_is_read_only_by_itself_or_by_its_filesystem(options, super_options, expected):
    mount = Mount(1, 0, "8:1", "/", "/m", options, "ext4", "/dev/sda", super_options)
    assert mount.read_only is expected


def at(number: int, parent: int, path: str) -> Mount:
    return Mount(number, parent, "8:1", "/", path, ("rw",), "ext4", "/dev/sda", ("rw",))


@given(st.permutations([at(5, 1, "/m"), at(9, 5, "/m"), at(7, 9, "/m"), at(8, 1, "/other")]))
def test_layers_are_ordered_by_parent_whatever_the_order_of_lines(lines):
    assert [mount.id for mount in layers_at(lines, "/m")] == [5, 9, 7]


def test_this_machines_own_mountinfo_is_understood():
    paths = [mount.path for mount in mounts.list_mounts()]
    assert "/proc" in paths


# --- mounting --------------------------------------------------------------------------------


@root
def test_a_mount_is_found_at_its_path_and_by_its_device(place, device):
    target = directory(place, "with blank\tand # tab")
    made = mounts.mount(device, target, "ext4", ["noatime"])
    assert mounts.find(target) == made
    assert made.device == mounts.device_number(device)
    assert "noatime" in made.options
    assert [m.path for m in mounts.mounts_of_device(made.device)] == [target]


@root
def test_a_mount_is_found_through_a_linked_parent(place, device):
    target = directory(place, "real")
    (place / "link").symlink_to(place)
    mounts.mount(device, target, "ext4")
    found = mounts.find(str(place / "link" / "real"))
    assert found is not None
    assert found.path == target


@root
def test_a_refused_mount_says_why_and_hides_the_options(place, device):
    target = directory(place, "t")
    with pytest.raises(MountFailed, match="bad option") as caught:
        mounts.mount(device, target, "ext4", ["no_such_option=hunter2"])
    assert "hunter2" not in str(caught.value)
    assert mounts.find(target) is None


@root
def test_a_read_only_bind_keeps_the_flags_of_its_source(place, device):
    source, target = directory(place, "s"), directory(place, "t")
    mounts.mount(device, source, "ext4", ["nosuid", "nodev", "noexec", "noatime"])
    made = mounts.bind(source, target, readonly=True)
    assert {"ro", "nosuid", "nodev", "noexec", "noatime"} <= set(made.options)
    with pytest.raises(OSError, match="Read-only"):
        Path(target, "file").touch()
    Path(source, "file").touch()


@root
def test_a_device_node_can_be_bound_onto_a_file(place, device):
    target = place / "file"
    target.touch()
    mounts.bind(device, str(target))
    assert mounts.device_number(str(target)) == mounts.device_number(device)


@root
def test_binding_what_is_not_there_fails(place):
    with pytest.raises(MountFailed):
        mounts.bind(str(place / "missing"), directory(place, "t"))


# --- unmounting ------------------------------------------------------------------------------


@root
def test_unmounting_twice_is_fine(place, device):
    target = directory(place, "t")
    mounts.mount(device, target, "ext4")
    mounts.unmount(target)
    mounts.unmount(target)
    assert mounts.find(target) is None


def test_unmounting_a_path_that_does_not_exist_is_fine(tmp_path):
    mounts.unmount(str(tmp_path / "missing" / "deep"))


@root
def test_every_layer_of_a_stack_is_unmounted(place, device):
    target = directory(place, "t")
    mounts.mount(device, target, "ext4")
    run(["mount", "-t", "tmpfs", "upper", target])
    run(["mount", "-t", "tmpfs", "top", target])
    found = mounts.find(target)
    assert found is not None
    assert found.source == "top"
    mounts.unmount(target)
    assert mounts.find(target) is None
    loop.detach(device)


@root
def test_a_busy_mount_is_not_unmounted_and_its_holder_is_named(place, device):
    target = directory(place, "t")
    mounts.mount(device, target, "ext4")
    with (
        subprocess.Popen(["sleep", "300"], cwd=target) as holder,
        pytest.raises(TargetBusy, match=rf"process {holder.pid} \(sleep\)"),
    ):
        try:
            mounts.unmount(target)
        finally:
            holder.kill()
    mounts.unmount(target)


@root
def test_a_process_with_an_open_file_is_named(place, device):
    target = directory(place, "t")
    mounts.mount(device, target, "ext4")
    with (
        Path(target, "file").open("w"),
        pytest.raises(TargetBusy, match=rf"process {os.getpid()} "),
    ):
        mounts.unmount(target)


@root
def test_a_mount_in_another_namespace_is_told(place, device):
    target = directory(place, "t")
    mounts.mount(device, target, "ext4")
    ready = place / "ready"
    os.mkfifo(ready)
    script = f"echo > {ready}; exec sleep 300"
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
    with subprocess.Popen(command) as holder:
        try:
            ready.read_text()  # returns once the namespace is there
            mounts.unmount(target)
            told = mounts.describe_holders(mounts.device_number(device))
            assert f"the mount namespace of process {holder.pid} " in told
        finally:
            holder.kill()


@root
def test_an_unmount_that_is_refused_for_another_reason_says_why(place, device, monkeypatch):
    target = directory(place, "t")
    mounts.mount(device, target, "ext4")
    programs = place / "programs"
    programs.mkdir()
    (programs / "umount").write_text("#!/bin/sh\necho 'must be superuser' >&2\nexit 1\n")
    (programs / "umount").chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        with pytest.raises(UnmountFailed, match="must be superuser"):
            mounts.unmount(target)


# --- dead devices ----------------------------------------------------------------------------


@root
def test_a_working_mount_is_not_dead(place, device):
    target = directory(place, "t")
    assert not mounts.is_dead(mounts.mount(device, target, "ext4"))


@root
@pytest.mark.parametrize("fs_type", ["xfs", "ext4"])
def test_a_filesystem_that_shut_down_is_dead_and_can_be_unmounted(place, fs_type):
    file = place / "disk"
    with file.open("wb") as disk:
        disk.truncate(320 << 20)
    run([f"mkfs.{fs_type}", "-q", str(file)])
    device, target = loop.attach(file), directory(place, "t")
    made = mounts.mount(device, target, fs_type)
    run(["xfs_io", "-x", "-c", "shutdown", target])
    dead = mounts.find(target)
    assert dead is not None
    assert dead.id == made.id
    assert mounts.is_dead(dead)
    mounts.unmount(target)
    assert mounts.find(target) is None
