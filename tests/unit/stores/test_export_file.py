"""The file of an export: what was written is read, and nothing else is taken for it."""

from __future__ import annotations

import hashlib
import itertools

import msgspec
import pytest

from csi_driver.cinderlib.persistence import export_file
from csi_driver.cinderlib.persistence.export_file import Header
from csi_driver.cinderlib.persistence.records import (
    ConnectionRecord,
    GroupRecord,
    GroupSnapshotRecord,
    KeyValueRecord,
    LateAttemptRecord,
    Operation,
    OrphanRecord,
    Phase,
    Record,
    SnapshotRecord,
    TombstoneRecord,
    VolumeRecord,
)
from csi_driver.cinderlib.persistence.store import StoreCorrupt, StoreTooNew


def records() -> list[Record]:
    """One of every kind."""
    common = {"backend": "b", "cinder_id": "c", "created_at": 0.5, "phase": Phase.AVAILABLE}
    operation = Operation(kind="create", step="backend", since=1.5, owner="h/1")
    made = {"kind": "volume", "backend": "b", "name": "n", "csi_id": "v", "since": 1.0}
    return [
        VolumeRecord(id="v", name="ä \n", size_gib=1, operation=operation, **common),
        SnapshotRecord(id="s", name="n", volume_id="v", size_gib=1, **common),
        GroupRecord(id="g", name="n", **common),
        GroupSnapshotRecord(id="gs", name="n", group_id="g", **common),
        ConnectionRecord(id="v/n", volume_id="v", node_id="n", **common),
        TombstoneRecord(id="t", incarnation=7),
        OrphanRecord(id="o", reason="r", **made),
        LateAttemptRecord(id="l", call="create", owner="h/1", look_at=2.0, **made),
        KeyValueRecord(id="k", value=[1, {"a": None}]),
    ]


def header(**changes: object) -> Header:
    made = Header(
        cinder_csi_records=export_file.FORMAT,
        program="0",
        made_at="2026-11-25T00:00:00Z",
        installation_id="i",
        driver="d",
        store="db",
        while_running=False,
        counts=export_file.counted(records()),
        records_keys={},
        transport_keys={},
    )
    return msgspec.structs.replace(made, **changes)


def content() -> bytes:
    return export_file.compose(header(), records())


def test_every_kind_comes_back_without_its_version() -> None:
    stored = [msgspec.structs.replace(each, version=9) for each in records()]
    given = export_file.parse(export_file.compose(header(), stored), "f")
    assert given.records == tuple(records())
    assert given.header == header()


def test_every_kind_of_record_is_tried_here() -> None:
    assert tuple(map(type, records())) == export_file.RECORD_TYPES


def test_it_is_text_with_a_record_to_a_line() -> None:
    lines = content().decode().splitlines()
    assert lines[0].startswith('{"cinder_csi_records":1,')
    assert lines[1].startswith('{"volume":{"id":"v"')
    assert len(lines) == 1 + len(records()) + 1


@pytest.mark.parametrize("text", [b"", b"\n", b"hello", b"{}", b"[1]\n[2]\n", b"\xff\x00"])
def test_another_file_is_told_as_such(text: bytes) -> None:
    with pytest.raises(StoreCorrupt, match="backup is no export of records") as refused:
        export_file.parse(text, "backup")
    assert "cinder-csi records export" in str(refused.value)


def test_a_truncated_file_is_refused_wherever_it_ends() -> None:
    whole = content()
    begin = whole.index(b"\n") + 1
    for end in range(begin, len(whole) - 2):
        with pytest.raises(StoreCorrupt, match=r"truncated|checksum|no record"):
            export_file.parse(whole[:end], "f")


def test_a_changed_byte_is_noticed_wherever_it_is() -> None:
    whole = content()
    # With the highest bit it is no text any more.
    for at, bit in itertools.product(range(len(whole) - 1), (1, 0x80)):
        changed = bytearray(whole)
        changed[at] ^= bit
        with pytest.raises((StoreCorrupt, StoreTooNew)):
            export_file.parse(bytes(changed), "f")


def test_a_line_more_or_less_is_noticed() -> None:
    lines = content().splitlines(keepends=True)
    for other in (lines[:3] + lines[4:], [*lines[:3], lines[2], *lines[3:]], [*lines, lines[-1]]):
        with pytest.raises(StoreCorrupt):
            export_file.parse(b"".join(other), "f")


def test_counts_that_are_not_true_are_refused() -> None:
    made = export_file.compose(header(counts={"volume": 2}), records())
    with pytest.raises(StoreCorrupt, match="other numbers"):
        export_file.parse(made, "f")


def test_another_format_names_the_version_that_wrote_it() -> None:
    made = export_file.compose(header(cinder_csi_records=2, program="9.1"), records())
    with pytest.raises(StoreTooNew, match="has format 2 and was written by version 9"):
        export_file.parse(made, "f")


def test_fields_and_kinds_of_a_newer_version_are_refused_and_named() -> None:
    newer = msgspec.structs.replace(records()[0], unknown_fields={"tier": msgspec.Raw(b'"gold"')})
    made = export_file.compose(header(counts={"volume": 1}), [newer])
    with pytest.raises(StoreTooNew, match=r"Line 2 of f, the volume v, has fields .*: tier"):
        export_file.parse(made, "f")

    # Also where a struct in a record would drop them.
    within = content().replace(b'"operation":{', b'"operation":{"ticket":1,', 1)
    body, last = within.rstrip(b"\n").rsplit(b"\n", 1)
    before = msgspec.json.decode(last)["sha256"].encode()
    now = hashlib.sha256(body + b"\n").hexdigest().encode()
    with pytest.raises(StoreTooNew, match=r"the volume v, has fields .*: operation\.ticket"):
        export_file.parse(within.replace(before, now), "f")

    class PoolRecord(Record, frozen=True, kw_only=True):
        KIND = "pool"

    made = export_file.compose(header(counts={"pool": 1}), [PoolRecord(id="p")])
    with pytest.raises(StoreTooNew, match="Line 2 of f is a pool"):
        export_file.parse(made, "f")
