"""An array goes dark after every change of an operation, and nothing is lost or left by CSI calls.

From each such moment on the array answers nothing, and the answer to the change itself is lost
too.  That is also what an array sees of a controller that is killed.  Then it answers again, and
either the caller repeats the call, or a new controller finds the records.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from csi_driver.base.values import GIB
from csi_driver.rpc._generated import csi_pb2 as pb
from csi_driver.rpc.errors import NON_FINAL
from tests.simulators.conftest import kaminario_options, xtremio_options
from tests.simulators.kaminario import Kaminario
from tests.simulators.xtremio import XtremIO
from tests.support.controller_bench import Code, ControllerBench

pytestmark = [
    pytest.mark.filterwarnings("ignore:Unverified HTTPS request"),
    pytest.mark.usefixtures("naps"),
]

Array = XtremIO | Kaminario
Start = Callable[[Any], Any]
Serve = Callable[[dict[str, Any]], ControllerBench]


@dataclass
class Subject:
    """An array and the controller that uses it."""

    array: Array
    bench: ControllerBench

    def size_of(self, volume_id: str) -> float:
        """The size in GiB that the array gives a volume."""
        return self.array.size_gib(self.name_of(volume_id))

    def name_of(self, volume_id: str) -> str:
        """The name that the array gives a volume."""
        cinder_id = self.bench.record(volume_id).cinder_id
        return cinder_id if isinstance(self.array, XtremIO) else f"cv-{cinder_id}"

    def is_seen_once(self, volume_id: str) -> bool:
        """Whether one host, and an initiator of it, sees a volume."""
        name = self.name_of(volume_id)
        if isinstance(self.array, XtremIO):
            return self.array.mapped_to(name) == self.array.names("initiators") == {"iqn.n1"}
        return (
            len(self.array.mapped_to(name)) == 1 and self.array.exported("iqn.n1", 1).name == name
        )


@pytest.fixture
def subject(request: pytest.FixtureRequest, start: Start, serve: Serve, tmp_path: Path) -> Subject:
    """The array that a test's parameter names."""
    if request.param == "kaminario":
        k2 = start(Kaminario(tmp_path / "k2"))
        return Subject(k2, serve(kaminario_options(k2)))
    version = {"xtremio": "4.2.1-5", "xtremio 3": "3.0.3-11"}[request.param]
    xms = start(XtremIO(version))
    return Subject(xms, serve(xtremio_options(xms, xtremio_clean_unused_ig=True)))


arrays = pytest.mark.parametrize("subject", ["xtremio", "xtremio 3", "kaminario"], indirect=True)


def moments(array: Array, act: Callable[[], object]) -> Iterator[str]:
    """Let ``act`` run into darkness after each change that it makes, with light again after each.

    First nothing is answered at all; then one change is made and its answer lost, then two
    are made and the second answer is lost, and so on until ``act`` comes through.

    :returns: what the caller was told at each moment; '' at the end.
    """
    for changes in itertools.count():
        array.go_dark(changes)
        told = ""
        try:
            act()
        except grpc.RpcError as error:
            told = f"{error.code()}: {error.details()}"
            assert error.code() in NON_FINAL, told
        if not array.light():
            assert not told
            assert changes > 1, "nothing was changed"
            yield ""
            return
        yield told or "answered all the same"


@arrays
def test_a_volume_is_made_once(subject: Subject) -> None:
    array, bench = subject.array, subject.bench
    for told in moments(array, lambda: bench.create("data", 2)):
        volume = bench.create("data", 2)
        assert len(array.names()) == 1, told
        assert subject.size_of(volume.volume_id) == 2
        bench.delete(volume.volume_id)
        assert array.everything() == {}, told


@arrays
def test_what_nobody_asks_for_again_is_removed(subject: Subject) -> None:
    array, bench = subject.array, subject.bench
    for told in moments(array, lambda: bench.create("data")):
        bench.restart()
        for entry in bench.volumes():
            assert not told
            bench.delete(entry.volume.volume_id)
        assert array.everything() == {}, told


@arrays
def test_a_deletion_whose_answer_is_lost_is_ok_when_repeated(subject: Subject) -> None:
    array, bench = subject.array, subject.bench
    made = [bench.create("data").volume_id]
    for told in moments(array, lambda: bench.delete(made[-1])):
        bench.delete(made[-1])
        assert array.everything() == {}, told
        made.append(bench.create("data").volume_id)


@arrays
def test_a_snapshot_is_made_once(subject: Subject) -> None:
    array, bench = subject.array, subject.bench
    volume_id = bench.create("data").volume_id
    before = array.everything()
    for told in moments(array, lambda: bench.snapshot(volume_id)):
        snapshot = bench.snapshot(volume_id)
        assert len(objects(array)) == len(names_in(before)) + 1, told
        bench.delete_snapshot(snapshot.snapshot_id)
        assert array.everything() == before, told


@arrays
def test_a_snapshot_is_deleted_once(subject: Subject) -> None:
    array, bench = subject.array, subject.bench
    volume_id = bench.create("data").volume_id
    before = array.everything()
    made = [bench.snapshot(volume_id).snapshot_id]
    for told in moments(array, lambda: bench.delete_snapshot(made[-1])):
        bench.delete_snapshot(made[-1])
        assert array.everything() == before, told
        made.append(bench.snapshot(volume_id).snapshot_id)


@arrays
def test_a_volume_is_extended_once(subject: Subject) -> None:
    array, bench = subject.array, subject.bench
    volume_id = bench.create("data").volume_id
    sizes = itertools.count(2)
    wanted = [next(sizes)]
    for told in moments(array, lambda: bench.expand(volume_id, wanted[-1] * GIB)):
        assert bench.expand(volume_id, wanted[-1] * GIB) == wanted[-1] * GIB
        assert subject.size_of(volume_id) == wanted[-1], told
        wanted.append(next(sizes))


def publish_at_last(subject: Subject, volume_id: str) -> None:
    """Publish a volume that may be mapped already.

    Kaminario maps no volume twice: the refusal, which is final, takes back what was left.
    """
    try:
        subject.bench.publish(volume_id)
    except grpc.RpcError as error:
        assert isinstance(subject.array, Kaminario)
        assert error.code() is Code.INTERNAL
        subject.bench.publish(volume_id)


@arrays
def test_a_volume_is_published_once(subject: Subject) -> None:
    array, bench = subject.array, subject.bench
    volume_id = bench.create("data").volume_id
    before = array.everything()
    for told in moments(array, lambda: bench.publish(volume_id)):
        publish_at_last(subject, volume_id)
        assert subject.is_seen_once(volume_id), told
        bench.unpublish(volume_id)
        assert array.everything() == before, told


@arrays
def test_a_volume_is_unpublished_once(subject: Subject) -> None:
    array, bench = subject.array, subject.bench
    volume_id = bench.create("data").volume_id
    before = array.everything()
    bench.publish(volume_id)
    for told in moments(array, lambda: bench.unpublish(volume_id)):
        bench.unpublish(volume_id)
        assert array.mapped_to(subject.name_of(volume_id)) == set(), told
        bench.publish(volume_id)
    bench.unpublish(volume_id)
    assert array.everything() == before


@pytest.mark.parametrize("subject", ["xtremio"], indirect=True)
@pytest.mark.parametrize("kind", ["snapshot", "volume"])
def test_a_copy_is_made_once(subject: Subject, kind: str) -> None:
    array, bench = subject.array, subject.bench
    volume_id = bench.create("data").volume_id
    array.write(subject.name_of(volume_id), "written")
    source = source_of(bench, volume_id, kind)
    before = array.everything()

    def copy() -> Any:
        return bench.create("copy", 2, volume_content_source=source)

    for told in moments(array, copy):
        made = subject.name_of(copy().volume_id)
        assert array.names() == {*names_in(before), made}, told
        assert (array.contents[made], array.size_gib(made)) == ("written", 2)
        bench.delete(copy().volume_id)
        assert array.everything() == before, told


@pytest.mark.root
@pytest.mark.usefixtures("attachable")
@pytest.mark.parametrize("subject", ["kaminario"], indirect=True)
@pytest.mark.parametrize("kind", ["snapshot", "volume"])
def test_a_copy_by_this_host_is_made_once(subject: Subject, kind: str) -> None:
    array, bench = subject.array, subject.bench
    volume_id = bench.create("data").volume_id
    array.write(subject.name_of(volume_id), "written")
    source = source_of(bench, volume_id, kind)
    before = array.everything()

    def copy() -> Any:
        return bench.create("copy", 2, volume_content_source=source)

    for told in moments(array, copy):
        if told:
            bench.restart()  # nobody asks again: what was begun is removed
            assert array.everything() == before, told
    made = subject.name_of(copy().volume_id)
    assert (array.content(made), array.size_gib(made)) == ("written", 2)
    assert len(objects(array)) == len(names_in(before)) + 1


def source_of(bench: ControllerBench, volume_id: str, kind: str) -> Any:
    """What a volume is to be made from."""
    source = pb.VolumeContentSource
    if kind == "volume":
        return source(volume=source.VolumeSource(volume_id=volume_id))
    snapshot_id = bench.snapshot(volume_id).snapshot_id
    return source(snapshot=source.SnapshotSource(snapshot_id=snapshot_id))


def names_in(everything: dict[str, set[str]]) -> set[str]:
    return everything.get("volumes", set()) | everything.get("snapshots", set())


def objects(array: Array) -> set[str]:
    """Volumes and snapshots; on XtremIO one kind is both."""
    return names_in(array.everything())
