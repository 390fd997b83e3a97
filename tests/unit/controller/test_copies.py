"""What a copy is known to hold when its source is formatted before, while or after it is made."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from csi_driver.base import faults
from csi_driver.base.values import Confirmation, Formatting, FormattingState
from csi_driver.cinderlib.persistence.records import Phase, SnapshotRecord, VolumeRecord
from csi_driver.controller import ids
from csi_driver.node.filesystem_rules import Probed, decide
from tests.doubles.faults import VendorError
from tests.support.controller_bench import Code, ControllerBench, Refused
from tests.support.messages import from_snapshot, from_volume

FORMATTED = Formatting(state=FormattingState.FORMATTED, fs_type="xfs", fs_uuid="the-uuid")
NEVER, UNKNOWN = FormattingState.NEVER, FormattingState.UNKNOWN


class Copying:
    """Makes one kind of copy of the volume ``source``, and looks at it."""

    def __init__(self, bench: ControllerBench, kind: type[VolumeRecord] | type[SnapshotRecord]):
        self.bench = bench
        self.kind = kind
        self.source = bench.create("source").volume_id
        volume = kind is VolumeRecord
        self.driver_call = "create_cloned_volume" if volume else "create_snapshot"

    def make(self) -> None:
        if self.kind is VolumeRecord:
            self.bench.create("copy", volume_content_source=from_volume(self.source))
        else:
            self.bench.snapshot(self.source, "copy")

    def record(self) -> VolumeRecord | SnapshotRecord:
        (found,) = [each for each in self.bench.store.list(self.kind) if each.name == "copy"]
        return found

    def formatting(self) -> Formatting:
        return self.record().formatting

    def confirm(self) -> None:
        self.bench.nodes.confirm(Confirmation(volume_id=self.source, formatting=FORMATTED))

    def restored(self) -> Formatting:
        """What a volume is known to hold that is made from the copy."""
        copy = self.record().id
        source = from_volume(copy) if self.kind is VolumeRecord else from_snapshot(copy)
        made = self.bench.create("restored", volume_content_source=source)
        return self.bench.record(made.volume_id).formatting

    def assert_made_anew(self) -> None:
        """Nothing is left of the copy, and the next call makes one that knows what it holds."""
        assert len(self.bench.on_backend()) == 1
        assert [each for each in self.bench.store.list(self.kind) if each.name == "copy"] == []
        self.make()
        assert self.formatting() == FORMATTED
        assert len(self.bench.on_backend()) == 2

    @contextmanager
    def held(self, when: str) -> Iterator[None]:
        """The driver call stands still, before or after the cut is made."""
        gate = self.bench.hold(self.driver_call, when)
        with ThreadPoolExecutor(1) as pool:
            making = pool.submit(self.make)
            gate.wait_until_entered()
            yield
            self.bench.faults().let_go(self.driver_call, when)
            making.result()


@pytest.fixture(params=[VolumeRecord, SnapshotRecord])
def copying(request, bench) -> Copying:
    return Copying(bench, request.param)


def own_uuid(copying: Copying) -> str:
    return ids.filesystem_uuid(copying.source)


def test_nobody_uses_the_source_and_the_copy_may_be_formatted(copying):
    copying.make()
    assert copying.formatting().state is NEVER
    assert copying.restored().state is NEVER


@pytest.mark.parametrize("fs_type", ["", "ext4"])  # mkfs.ext4 began, or came to its end
def test_the_source_holds_the_filesystem_of_a_stage_that_failed_and_so_may_the_copy(
    copying, fs_type
):
    """Mounted, and then the confirmation could not be stored; nobody has the volume now."""
    copying.bench.publish(copying.source)
    copying.bench.unpublish(copying.source)
    copying.make()
    left = Probed(fs_type=fs_type, uuid=own_uuid(copying))
    for formatting in (copying.formatting(), copying.restored()):
        assert decide(formatting, "ext4", left).uuid == own_uuid(copying)


def test_attached_but_not_confirmed_after_the_cut_it_held_nobodys_data(copying):
    """A filesystem that was not finished at the cut may be in it, and is known by its UUID."""
    copying.bench.publish(copying.source)
    copying.make()
    copying.confirm()
    assert copying.formatting() == Formatting(state=NEVER, fs_uuid=own_uuid(copying))
    assert copying.restored() == copying.formatting()


@pytest.mark.parametrize("when", ["before", "after"])
def test_confirmed_while_it_is_copied_it_is_copied_anew(copying, when):
    copying.bench.publish(copying.source)
    with Refused(Code.ABORTED, "was put to use while"), copying.held(when):
        copying.confirm()
    copying.assert_made_anew()


@pytest.fixture
def unheard(bench, monkeypatch):
    """The ledger's words count no more: of a node that lost the volume while it staged it."""
    monkeypatch.setattr(bench.nodes, "confirmation", lambda volume_id: None)


@pytest.mark.usefixtures("unheard")
def test_a_word_that_does_not_count_is_no_proof_that_nobody_used_the_source(copying):
    """Another node may have taken it for granted, and Pods may write there since."""
    copying.confirm()
    copying.bench.publish(copying.source, "n2")
    copying.make()
    assert copying.formatting().state is UNKNOWN
    assert copying.restored().state is UNKNOWN
    assert copying.bench.record(copying.source).formatting.state is NEVER


@pytest.mark.usefixtures("unheard")
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_word_that_does_not_count_comes_while_the_source_is_copied(copying, when):
    with Refused(Code.ABORTED, "was put to use while"), copying.held(when):
        copying.confirm()
    assert len(copying.bench.on_backend()) == 1
    copying.make()
    assert copying.formatting().state is UNKNOWN


@pytest.mark.parametrize("when", ["before", "after"])
def test_attached_while_it_is_copied_and_not_confirmed(copying, when):
    with copying.held(when):
        copying.bench.publish(copying.source)
    assert copying.formatting() == Formatting(state=NEVER, fs_uuid=own_uuid(copying))


@pytest.mark.parametrize("when", ["before", "after"])
def test_used_and_detached_while_it_is_copied_it_is_copied_anew(copying, when):
    with Refused(Code.ABORTED, "was put to use while"), copying.held(when):
        copying.bench.publish(copying.source)
        copying.confirm()
        copying.bench.unpublish(copying.source)
        # As in a cluster, where a node's word counts only while it has the volume.
        copying.bench.nodes.forget(copying.source)
    copying.assert_made_anew()


def test_what_cannot_be_removed_yet_is_removed_before_the_next_copy_is_made(copying):
    remove = f"delete_{copying.kind.KIND}"
    copying.bench.publish(copying.source)
    with Refused(Code.ABORTED, "could not be removed yet: no"), copying.held("after"):
        copying.confirm()
        copying.bench.faults().fail(remove, VendorError("no"), "before")
    assert len(copying.bench.on_backend()) == 2
    assert copying.record().provider == {}
    copying.make()
    assert copying.formatting() == FORMATTED
    assert len(copying.bench.on_backend()) == 2


@pytest.mark.parametrize("restarted", [True, False])
def test_a_process_that_ends_between_the_copy_s_removal_and_its_record_s_leaves_nothing(
    copying, restarted, monkeypatch
):
    operation = "clone" if copying.kind is VolumeRecord else "snapshot"
    failing = {"CINDER_CSI_TEST_FAULT": f"{operation}/undone/write=fail"}
    monkeypatch.setattr(faults, "_faults", faults.Faults(failing))
    copying.bench.publish(copying.source)
    with Refused(Code.UNAVAILABLE, "made the write"), copying.held("after"):
        copying.confirm()
    assert copying.record().phase is Phase.CREATING
    assert len(copying.bench.on_backend()) == 1
    if restarted:
        copying.bench.restart()
        assert [
            each for each in copying.bench.store.list(copying.kind) if each.name == "copy"
        ] == []
    copying.make()
    assert copying.formatting() == FORMATTED
    assert len(copying.bench.on_backend()) == 2


def test_a_confirmed_volume_is_copied_as_it_is(copying):
    copying.confirm()
    copying.make()
    assert copying.formatting() == FORMATTED
    assert copying.restored() == FORMATTED


def test_confirmations_out_of_reach_after_the_cut_leave_one_copy_by_the_next_call(
    copying, tmp_path
):
    copying.bench.publish(copying.source)
    file = tmp_path / "state" / "confirmations" / f"{copying.source}.json"
    file.parent.mkdir(exist_ok=True)
    with Refused(Code.UNAVAILABLE, "is damaged"), copying.held("after"):
        file.write_text("{")
    file.unlink()
    assert len(copying.bench.on_backend()) == 1
    copying.make()
    assert copying.formatting().state is NEVER
    assert len(copying.bench.on_backend()) == 2
