"""NodeStageVolume never harms data: what is refused leaves the device as it was."""

from __future__ import annotations

import os

import pytest

from csi_driver.attach import devices, loop
from csi_driver.attach.errors import (
    AttachFailed,
    DeviceIdentityMismatch,
    DeviceReadError,
    DeviceSizeMismatch,
    UnsupportedTransport,
)
from csi_driver.attach.identity import XATTR
from csi_driver.attach.processes import run
from csi_driver.base.errors import StateDirectoryError
from csi_driver.base.values import Confirmation, Formatting, FormattingState
from csi_driver.node import mounts
from csi_driver.node.errors import (
    DeviceReadOnly,
    FormattedMeanwhile,
)
from csi_driver.node.filesystem_errors import (
    FilesystemDamaged,
    FilesystemMismatch,
    ForeignSignature,
    FormattedButBlank,
    NotBlank,
)
from csi_driver.node.ports import LedgerUnavailable
from tests.support.ledger import FailingLedger, MemoryLedger
from tests.support.node_bench import (
    MIB,
)

pytestmark = pytest.mark.root

FORMATTED = FormattingState.FORMATTED


# --- what must never be formatted ------------------------------------------------------------


def test_a_formatted_volume_that_looks_blank_is_refused_and_stays_untouched(bench):
    volume = bench.volume()
    recorded = Formatting(state=FORMATTED, fs_type="ext4", fs_uuid=volume.formatting.fs_uuid)
    with pytest.raises(FormattedButBlank):
        bench.stage(volume, formatting=recorded)
    assert bench.nothing_left(volume)
    assert devices.edges_are_zero(str(volume.file))


def test_a_never_formatted_volume_with_a_foreign_filesystem_is_refused(bench):
    volume = bench.volume()
    run(["mkfs.ext4", "-q", str(volume.file)])
    before = volume.file.read_bytes()
    with pytest.raises(ForeignSignature):
        bench.stage(volume)
    assert bench.nothing_left(volume)
    assert volume.file.read_bytes() == before


def test_a_never_formatted_volume_with_bytes_at_its_end_is_refused(bench):
    volume = bench.volume()
    with volume.file.open("r+b") as content:
        content.seek(-8, os.SEEK_END)
        content.write(b"somebody")
    before = volume.file.read_bytes()
    with pytest.raises(NotBlank):
        bench.stage(volume)
    assert volume.file.read_bytes() == before


def test_an_imported_volume_is_used_with_its_filesystem_and_then_known(bench):
    volume = bench.volume()
    run(["mkfs.ext4", "-q", "-U", volume.formatting.fs_uuid, str(volume.file)])
    bench.stage(volume, formatting=Formatting(state=FormattingState.UNKNOWN))
    expected = Formatting(state=FORMATTED, fs_type="ext4", fs_uuid=volume.formatting.fs_uuid)
    assert bench.formatting(volume) == expected


def test_another_filesystem_than_the_recorded_one_is_refused(bench):
    volume = bench.volume()
    run(["mkfs.ext4", "-q", str(volume.file)])
    recorded = Formatting(state=FORMATTED, fs_type="ext4", fs_uuid=volume.formatting.fs_uuid)
    with pytest.raises(FilesystemMismatch):
        bench.stage(volume, formatting=recorded)
    assert bench.nothing_left(volume)


def test_our_own_unfinished_filesystem_is_made_again(bench):
    volume = bench.volume()
    run(["mkfs.ext4", "-q", "-U", volume.formatting.fs_uuid, str(volume.file)])
    with volume.file.open("r+b") as content:  # group descriptors and inode tables gone
        content.seek(8192)
        content.write(os.urandom(4 * MIB))
    bench.stage(volume)
    assert bench.formatting(volume).state is FORMATTED
    bench.unstage(volume)
    run(["e2fsck", "-f", "-n", str(volume.file)])


def test_a_damaged_filesystem_with_data_is_refused_and_not_mounted(bench):
    volume = bench.volume()
    bench.stage(volume)
    bench.unstage(volume)
    with volume.file.open("r+b") as content:
        content.seek(8192)
        content.write(os.urandom(4 * MIB))
    with pytest.raises(FilesystemDamaged):
        bench.stage(volume)
    assert bench.nothing_left(volume)


# --- the ledger ------------------------------------------------------------------------------


def test_nothing_is_attached_when_the_ledger_cannot_be_read(bench):
    bench.ledger = FailingLedger(reads=0)
    bench.restart()
    volume = bench.volume()
    with pytest.raises(LedgerUnavailable):
        bench.stage(volume)
    assert bench.nothing_left(volume)


def test_nothing_is_written_when_the_ledger_goes_away_before_mkfs(bench):
    bench.ledger = FailingLedger(reads=1)
    bench.restart()
    volume = bench.volume()
    with pytest.raises(LedgerUnavailable):
        bench.stage(volume)
    assert bench.nothing_left(volume)
    assert not any(volume.file.read_bytes())


def test_a_volume_that_another_node_formats_in_this_moment_is_not_formatted_again(bench):
    volume = bench.volume()

    class AnotherNode(MemoryLedger):
        """Its confirmation comes between the first and the second look."""

        def confirmation(self, volume_id: str) -> Confirmation | None:
            seen = super().confirmation(volume_id)
            theirs = Formatting(state=FORMATTED, fs_type="ext4", fs_uuid="theirs")
            self.confirm(Confirmation(volume_id=volume_id, formatting=theirs))
            return seen

    bench.ledger = AnotherNode()
    bench.restart()
    with pytest.raises(FormattedMeanwhile):
        bench.stage(volume)
    assert bench.nothing_left(volume)
    assert not any(volume.file.read_bytes())


def test_a_stage_that_cannot_be_confirmed_fails_and_the_next_one_goes_on(bench):
    ledger = bench.ledger = FailingLedger(reads=-1, writes=0)
    bench.restart()
    volume = bench.volume()
    with pytest.raises(LedgerUnavailable):
        bench.stage(volume)
    assert bench.nothing_left(volume)
    ledger.writes = -1
    bench.stage(volume)
    assert bench.formatting(volume).fs_uuid == volume.formatting.fs_uuid


def test_a_formatted_volume_is_staged_without_the_ledger(bench):
    volume = bench.volume()
    bench.stage(volume)
    bench.unstage(volume)
    known = bench.formatting(volume)
    bench.ledger = FailingLedger()
    bench.restart()
    assert mounts.find(bench.stage(volume, formatting=known)) is not None


# --- proofs of the device --------------------------------------------------------------------


def test_a_device_smaller_than_recorded_is_refused(bench):
    volume = bench.volume()
    with pytest.raises(DeviceSizeMismatch):
        bench.stage(volume, size_bytes=volume.size_bytes + MIB)
    assert bench.nothing_left(volume)


@pytest.mark.parametrize("source", ["record", "connection", "ledger"])
def test_a_device_of_another_identity_is_refused_wherever_it_was_told(bench, source):
    volume = bench.volume()
    os.setxattr(volume.file, XATTR, b"right")
    data = {"device_path": str(volume.file), "access_mode": "rw"}
    changes: dict[str, object] = {}
    if source == "record":
        changes["identity"] = "file:wrong"
    elif source == "connection":
        data["identity"] = "file:wrong"
        changes["connection"] = {"driver_volume_type": "local", "data": data}
    else:
        bench.ledger.confirm(
            Confirmation(volume_id=volume.id, formatting=volume.formatting, identity="file:wrong")
        )
    with pytest.raises(DeviceIdentityMismatch, match="file:wrong"):
        bench.stage(volume, **changes)
    assert bench.nothing_left(volume)
    assert not any(volume.file.read_bytes())


def test_the_identity_is_learned_at_the_first_stage_and_required_from_then_on(bench):
    volume = bench.volume()
    os.setxattr(volume.file, XATTR, b"one")
    bench.stage(volume)
    confirmation = bench.ledger.confirmation(volume.id)
    assert confirmation is not None
    assert confirmation.identity == "file:one"
    bench.unstage(volume)
    os.setxattr(volume.file, XATTR, b"other")
    with pytest.raises(DeviceIdentityMismatch):
        bench.stage(volume)


def test_a_device_that_cannot_be_read_to_its_end_is_refused(bench):
    volume = bench.volume()
    bench.stage(volume)
    bench.unstage(volume)
    device = loop.attach(volume.file)
    os.truncate(volume.file, volume.size_bytes - 2 * MIB)
    data = {"device_path": device, "access_mode": "rw"}
    with pytest.raises(DeviceReadError):
        bench.stage(volume, connection={"driver_volume_type": "local", "data": data})


def test_a_volume_whose_file_is_gone_leaves_nothing(bench):
    volume = bench.volume()
    volume.file.unlink()
    with pytest.raises(AttachFailed):
        bench.stage(volume)
    assert bench.state.read(volume.id) is None


def test_a_transport_that_this_node_does_not_know_leaves_nothing(bench):
    volume = bench.volume()
    with pytest.raises(UnsupportedTransport):
        bench.stage(volume, connection={"driver_volume_type": "carrier-pigeon", "data": {}})
    assert bench.state.read(volume.id) is None


def test_a_writable_volume_on_a_read_only_device_is_refused(bench):
    volume = bench.volume()
    data = {"device_path": loop.attach(volume.file, readonly=True), "access_mode": "rw"}
    with pytest.raises(DeviceReadOnly):
        bench.stage(volume, connection={"driver_volume_type": "local", "data": data})
    assert bench.state.read(volume.id) is None


def test_nothing_is_attached_when_the_state_cannot_be_written(bench):
    volume = bench.volume()
    (bench.directory / "state").mkdir()
    (bench.directory / "state" / "volumes").touch()
    with pytest.raises(StateDirectoryError):
        bench.stage(volume)
    assert loop.devices_of(volume.file) == []
