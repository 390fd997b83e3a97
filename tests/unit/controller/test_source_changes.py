"""A copy is asked for again after its source went away or grew: the name never stays half made."""

from __future__ import annotations

import msgspec
import pytest

from csi_driver.base.values import GIB
from csi_driver.cinderlib.persistence.records import Operation, Phase, VolumeRecord
from tests.doubles.faults import VendorError
from tests.support.controller_bench import Code, ControllerBench, Refused
from tests.support.messages import from_snapshot, from_volume


def interrupt(bench: ControllerBench, volume_id: str, kind: str) -> str:
    """Let the record say that the process died while the volume was made; its Cinder id."""
    record = bench.record(volume_id)
    begun = Operation(kind=kind, step="backend", since=1.0, owner="another/1")
    bench.store.put(msgspec.structs.replace(record, phase=Phase.CREATING, operation=begun))
    return f"volume-{record.cinder_id}"


@pytest.fixture(params=["volume", "snapshot"])
def copy_of_what_is_gone(request, bench):
    """A request for a copy that is made already, and of which the source was deleted since."""
    source = bench.create("source")
    if request.param == "volume":
        wanted = from_volume(source.volume_id)
        copy = bench.create("copy", volume_content_source=wanted)
        bench.delete(source.volume_id)
    else:
        cut = bench.snapshot(source.volume_id)
        wanted = from_snapshot(cut.snapshot_id)
        copy = bench.create("copy", volume_content_source=wanted)
        bench.delete_snapshot(cut.snapshot_id)
    return copy, {"volume_content_source": wanted}


def test_a_copy_whose_answer_was_lost_is_found_without_its_source(bench, copy_of_what_is_gone):
    copy, asked = copy_of_what_is_gone
    assert bench.create("copy", **asked) == copy


def test_a_begun_copy_whose_source_is_gone_is_removed_before_that_is_said(
    bench, copy_of_what_is_gone
):
    copy, asked = copy_of_what_is_gone
    begun = interrupt(bench, copy.volume_id, "clone")
    assert begun in bench.on_backend()
    with Refused(Code.NOT_FOUND, "does not exist"):
        bench.create("copy", **asked)
    assert begun not in bench.on_backend()
    assert bench.store.get(VolumeRecord, copy.volume_id) is None
    assert bench.create("copy").volume_id == copy.volume_id


def test_a_begun_copy_that_cannot_be_removed_is_not_given_up(bench, copy_of_what_is_gone):
    copy, asked = copy_of_what_is_gone
    interrupt(bench, copy.volume_id, "clone")
    bench.faults().fail("delete_volume", VendorError("lost the session"))
    with Refused(Code.ABORTED, "could not be removed"):
        bench.create("copy", **asked)
    with Refused(Code.NOT_FOUND):
        bench.create("copy", **asked)
    assert bench.store.get(VolumeRecord, copy.volume_id) is None


def test_a_begun_copy_grows_with_its_source(bench):
    source = bench.create("source")
    asked = {
        "volume_content_source": from_volume(source.volume_id),
        "capacity_range": None,
    }
    copy = bench.create("copy", **asked)
    interrupt(bench, copy.volume_id, "clone")
    bench.expand(source.volume_id, 3 * GIB)
    assert bench.create("copy", **asked).capacity_bytes == 3 * GIB
