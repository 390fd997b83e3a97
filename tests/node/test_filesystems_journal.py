"""A volume cut off while it was written is staged read-only with a reason, or with its journal."""

import os
from pathlib import Path

import msgspec
import pytest

from csi_driver.node.filesystem_errors import JournalNotReplayed
from tests.support.disks import copy
from tests.support.node_bench import MOUNT, READER, XFS, XFS_BYTES, Bench, TestVolume

pytestmark = pytest.mark.root


@pytest.fixture(params=["ext4", "xfs"])
def cut_off(request: pytest.FixtureRequest, bench: Bench) -> TestVolume:
    """A clone made while its source was mounted and written."""
    source = bench.volume(XFS_BYTES, "source")
    path = Path(bench.stage(source, XFS if request.param == "xfs" else MOUNT))
    (path / "file").write_text("data")
    os.sync()
    clone = bench.directory / "clone.raw"
    copy(source.file, clone)
    bench.unstage(source)
    assert bench.formatting(source).fs_type == request.param
    return TestVolume("clone", clone, XFS_BYTES, bench.formatting(source))


def test_read_only_it_is_refused_with_a_reason(bench: Bench, cut_off: TestVolume) -> None:
    with pytest.raises(JournalNotReplayed, match="once with a writing access mode"):
        bench.stage(cut_off, READER, readonly=True)
    assert bench.nothing_left(cut_off)


def test_once_staged_for_writing_it_can_be_read(bench: Bench, cut_off: TestVolume) -> None:
    bench.stage(cut_off)
    bench.unstage(cut_off)
    path = Path(bench.stage(cut_off, READER, readonly=True))
    assert (path / "file").read_text() == "data"
    bench.unstage(cut_off)


def test_the_user_may_ask_to_leave_the_journal(bench: Bench, cut_off: TestVolume) -> None:
    flag = "norecovery" if cut_off.formatting.fs_type == "xfs" else "noload"
    reader = msgspec.structs.replace(READER, mount_flags=(flag,))
    path = bench.stage(cut_off, reader, readonly=True)
    assert os.path.ismount(path)
    bench.unstage(cut_off)
