"""Records as custom resources: nothing is lost, nothing is left unexplained."""

from __future__ import annotations

import copy
import datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_driver.base.values import Formatting, FormattingState
from csi_driver.cinderlib.persistence.kubernetes import objects, resources, schemas
from csi_driver.cinderlib.persistence.records import (
    RECORD_TYPES,
    Operation,
    Phase,
    Source,
    VolumeRecord,
)
from csi_driver.cinderlib.persistence.store import StoreCorrupt
from csi_driver.kube.group import DRIVER_LABEL
from tools import generate_manifests

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
LATER = NOW + datetime.timedelta(hours=1)
DRIVER = "csi.example.com"


def test_every_kind_of_record_has_a_resource():
    assert {each.record for each in resources.RESOURCES} == set(RECORD_TYPES)


def test_every_field_is_explained_and_typed():
    for definition in schemas.definitions():
        (version,) = definition["spec"]["versions"]
        unexplained = [*_unexplained(version["schema"]["openAPIV3Schema"], definition["kind"])]
        assert not unexplained


def _unexplained(schema: dict[str, Any], path: str) -> Any:
    for name, inner in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        free = inner.get("x-kubernetes-preserve-unknown-fields")
        if "type" not in inner and not free:
            yield here
        top = path.count(".") == 0
        if not top and "conditions" not in here and not inner.get("description"):
            yield here
        yield from _unexplained(inner, here)


def test_names_and_short_names_are_used_once():
    names = [each["spec"]["names"] for each in schemas.definitions()]
    for word in ("kind", "plural"):
        assert len({each[word] for each in names}) == len(names)
    assert len({each["shortNames"][0] for each in names}) == len(names)


def test_the_generated_files_are_current():
    assert generate_manifests.main(["--check"]) == 0


text = st.text(max_size=8)
operations = st.builds(
    Operation,
    kind=st.sampled_from(["create", "delete"]),
    step=text,
    since=st.floats(min_value=0, max_value=1e10),
    owner=text,
    attempts=st.integers(1, 9),
    last_error=text,
    snapshot_id=text,
)
volumes = st.builds(
    VolumeRecord,
    id=st.uuids().map(str),
    name=text,
    backend=text,
    phase=st.sampled_from(Phase),
    size_gib=st.integers(1, 1 << 40),
    cinder_id=text,
    created_at=st.floats(min_value=0, max_value=1e10),
    source=st.none() | st.builds(Source, kind=st.sampled_from(["volume", "snapshot"]), id=text),
    request=st.dictionaries(text, st.none() | st.integers(0, 9) | st.lists(text, max_size=2)),
    metadata=st.dictionaries(text, text, max_size=3),
    formatting=st.builds(Formatting, state=st.sampled_from(FormattingState), fs_type=text),
    operation=st.none() | operations,
    suspects=st.lists(text, max_size=3).map(tuple),
    multiattach=st.booleans(),
)


@given(volume=volumes, before=st.none() | volumes, version=st.integers(1, (1 << 53) - 1))
def test_a_record_is_read_from_its_object_as_it_was(volume, before, version):
    stored = None if before is None else objects.to_object(before, 7, DRIVER, None, NOW)
    kept = copy.deepcopy(stored)
    made = objects.to_object(volume, version, DRIVER, stored, NOW)
    assert objects.to_record(VolumeRecord, made) == msgspec.structs.replace(volume, version=version)
    assert stored == kept, "the stored object is read only"


def volume(**fields: Any) -> VolumeRecord:
    asked = {"id": "v", "name": "n", "backend": "b", "phase": Phase.CREATING, "size_gib": 1}
    return VolumeRecord(**asked | {"cinder_id": "c", "created_at": 1.0} | fields)


def test_what_others_put_into_an_object_survives_a_change():
    stored = objects.to_object(volume(), 1, DRIVER, None, NOW)
    stored["metadata"]["labels"]["team"] = "storage"
    stored["metadata"]["finalizers"].append("example.com/hold")
    stored["spec"]["ofANewerVersion"] = {"a": 1}
    made = objects.to_object(volume(size_gib=2), 2, DRIVER, stored, NOW)
    assert made["metadata"]["labels"] == {DRIVER_LABEL: DRIVER, "team": "storage"}
    assert made["metadata"]["finalizers"] == [resources.FINALIZER, "example.com/hold"]
    assert made["spec"]["ofANewerVersion"] == {"a": 1}
    assert made["spec"]["sizeGiB"] == 2


def test_ready_tells_what_runs_and_since_when_it_is_so():
    operation = Operation(kind="create", step="backend", since=1.0, owner="host/1")
    creating = objects.to_object(volume(operation=operation), 1, DRIVER, None, NOW)
    (condition,) = creating["status"]["conditions"]
    assert condition == {
        "type": "Ready",
        "status": "False",
        "reason": "Creating",
        "message": "create by host/1, at step backend",
        "lastTransitionTime": "2026-01-02T03:04:05Z",
    }
    again = objects.to_object(volume(operation=operation), 2, DRIVER, creating, LATER)
    assert again["status"]["conditions"] == [condition]
    made = objects.to_object(volume(phase=Phase.AVAILABLE), 3, DRIVER, again, LATER)
    assert made["status"]["conditions"][0]["status"] == "True"
    assert made["status"]["conditions"][0]["lastTransitionTime"] == "2026-01-02T04:04:05Z"


@pytest.mark.parametrize(
    "broken",
    [
        {"spec": {"sizeGiB": "large"}},
        {"spec": {}},
        {"spec": []},
        {"status": {"phase": "flying", "recordVersion": 3}},
    ],
)
def test_an_object_that_is_no_record_is_told_apart(broken):
    item = objects.to_object(volume(), 1, DRIVER, None, NOW) | broken
    with pytest.raises(StoreCorrupt, match=r"CinderVolume '[0-9a-f]{40}'"):
        objects.to_record(VolumeRecord, item)
