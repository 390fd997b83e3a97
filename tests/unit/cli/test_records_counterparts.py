"""What the records and the cluster do not have in common; pure."""

from __future__ import annotations

from typing import Any

import pytest

from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    Phase,
    SnapshotRecord,
    VolumeRecord,
)
from csi_driver.cli.records_counterparts import Counterparts, bytes_of, compare

NOW = 1000.0
OLD: dict[str, Any] = {"backend": "b", "cinder_id": "c", "created_at": 1.0}


def volume(record_id: str, **fields: Any) -> VolumeRecord:
    defaults = {"name": f"pvc-{record_id}", "size_gib": 1, "phase": Phase.AVAILABLE, **OLD}
    return VolumeRecord(id=record_id, **defaults | fields)


def snapshot(record_id: str) -> SnapshotRecord:
    return SnapshotRecord(
        id=record_id, name="n", volume_id="v", size_gib=1, phase=Phase.AVAILABLE, **OLD
    )


def connection(volume_id: str, node_id: str) -> ConnectionRecord:
    return ConnectionRecord(
        id=f"{volume_id}/{node_id}",
        volume_id=volume_id,
        node_id=node_id,
        phase=Phase.ATTACHED,
        **OLD,
    )


def there(**parts: Any) -> Counterparts:
    return Counterparts(**{"volumes": {}, "snapshots": {}, "attachments": {}, "unread": ()} | parts)


def test_both_sides_may_be_equal() -> None:
    seen = there(
        volumes={"v": "pv"}, snapshots={"s": "content"}, attachments={("v", "n1"): "attachment"}
    )
    found = compare(seen, [volume("v"), snapshot("s"), connection("v", "n1")], NOW)
    assert (found.problems, found.notes) == ((), ())


def test_a_volume_that_was_extended_since_is_a_problem() -> None:
    """A snapshot of it would be told to be smaller than it is, and a copy be cut off."""
    seen = there(
        volumes={"v": "pv", "w": "pv-w"}, sizes={"v": bytes_of("5Gi"), "w": bytes_of("1Gi")}
    )
    assert compare(seen, [volume("v"), volume("w")], NOW).problems == (
        f"The PersistentVolume pv (v) has {5 * 1024**3} bytes, its record 1 GiB",
    )


@pytest.mark.parametrize(
    ("quantity", "size"),
    [
        ("5Gi", 5 * 1024**3),
        ("1536Mi", 1536 * 1024**2),
        ("7", 7),
        ("2k", 2000),
        ("3G", 3 * 10**9),
        ("1.5Gi", 0),
        ("1e9", 0),
        ("", 0),
    ],
)
def test_quantities_are_read(quantity: str, size: int) -> None:
    assert bytes_of(quantity) == size


def test_what_users_have_without_a_record_is_a_problem() -> None:
    seen = there(
        volumes={"v": "pv", "lost": "pv-lost"},
        snapshots={"gone": "content"},
        attachments={("v", "n2"): "at-v", ("lost", "n1"): "at-lost"},
    )
    assert compare(seen, [volume("v"), connection("v", "n1")], NOW).problems == (
        "The PersistentVolume pv-lost (lost) has no record",
        "The VolumeSnapshotContent content (gone) has no record",
        "The VolumeAttachment at-v, of volume v to node n2, has no record",
    )


def test_a_record_that_nobody_uses_is_noted() -> None:
    found = compare(there(), [volume("v"), snapshot("s"), connection("v", "n1")], NOW)
    assert found.problems == ()
    assert found.notes == (
        "volume v (pvc-v) has no PersistentVolume",
        "snapshot s (n) has no VolumeSnapshotContent",
        "volume v is published to n1 without a VolumeAttachment",
    )


def test_what_is_young_or_not_finished_is_not_noted() -> None:
    records = [volume("young", created_at=NOW - 5), volume("begun", phase=Phase.CREATING)]
    assert compare(there(), records, NOW).notes == ()


def test_what_could_not_be_read_is_said_instead() -> None:
    found = compare(there(unread=("not compared",)), [volume("v")], NOW)
    assert found.notes == ("not compared",)
