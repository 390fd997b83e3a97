"""Messages become typed requests, or are refused with the name of the field."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_driver.base.errors import InvalidRequest
from csi_driver.base.values import AccessMode, AccessType, Topology, VolumeCapability
from csi_driver.cinderlib.persistence.records import Source
from csi_driver.rpc import controller_requests, fields, node_requests
from csi_driver.rpc._generated import csi_pb2 as pb

MODE = pb.VolumeCapability.AccessMode
WRITER = MODE(mode=MODE.SINGLE_NODE_WRITER)
MOUNT = pb.VolumeCapability(mount=pb.VolumeCapability.MountVolume(), access_mode=WRITER)


def refused(call, *arguments) -> str:
    with pytest.raises(InvalidRequest) as error:
        call(*arguments)
    return str(error.value)


# -- names ----------------------------------------------------------------------


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=128))
def test_any_unicode_without_control_characters_is_a_name(text):
    assert fields.name(text) == text


@pytest.mark.parametrize("character", ["x", "ü", "漢", "🙂", "\u2028", "\u200d"])
def test_a_name_has_up_to_128_characters(character):
    assert fields.name(character * 128) == character * 128
    assert "129 characters" in refused(fields.name, character * 129)


@given(st.characters(categories=["Cc"]), st.integers(0, 10))
def test_a_control_character_is_refused_and_told(character, position):
    text = "x" * position + character + "y"
    reason = refused(fields.name, text)
    assert f"U+{ord(character):04X} at {position}" in reason
    assert all(unicodedata.category(c) != "Cc" for c in reason)


def test_a_name_is_required():
    assert refused(fields.name, "") == "name is missing"


# -- maps, paths, sizes ---------------------------------------------------------


def test_a_map_has_up_to_4_kib():
    largest = {"k" * 96: "v" * 4000}
    assert fields.string_map(largest.items(), "parameters") == largest
    reason = refused(fields.string_map, {"k" * 96: "v" * 3999 + "ü"}.items(), "parameters")
    assert reason == "parameters has 4097 bytes, more than 4096"


@pytest.mark.parametrize("text", ["", "relative/path", "./x", "/a\nb", "/a\0b"])
def test_a_path_is_absolute_and_plain(text):
    assert "target_path" in refused(fields.path, text, "target_path")


def test_an_absolute_path_is_taken_as_it_is():
    assert fields.path("/var/lib/ü b", "target_path") == "/var/lib/ü b"


def sized(**sizes: int) -> pb.ControllerExpandVolumeRequest:
    return pb.ControllerExpandVolumeRequest(volume_id="v", capacity_range=pb.CapacityRange(**sizes))


def test_a_range_that_is_absent_asks_for_nothing():
    assert fields.capacity_range(pb.CreateVolumeRequest()) == {
        "required_bytes": 0,
        "limit_bytes": 0,
    }


@pytest.mark.parametrize("sizes", [{}, {"required_bytes": 0, "limit_bytes": 0}])
def test_a_range_that_is_there_says_something(sizes):
    assert "holds no size" in refused(fields.capacity_range, sized(**sizes))


@pytest.mark.parametrize(
    "sizes", [{"required_bytes": -1}, {"limit_bytes": -1}, {"required_bytes": 5, "limit_bytes": -1}]
)
def test_a_negative_size_is_refused(sizes):
    assert "negative" in refused(fields.capacity_range, sized(**sizes))


# -- capabilities ---------------------------------------------------------------


@pytest.mark.parametrize("mode", AccessMode)
def test_every_access_mode_of_the_protocol_is_known(mode):
    message = pb.VolumeCapability(
        block=pb.VolumeCapability.BlockVolume(), access_mode=MODE(mode=mode.value)
    )
    expected = VolumeCapability(access_type=AccessType.BLOCK, mode=mode)
    assert fields.capability(message) == expected


def test_the_protocol_has_no_other_access_mode():
    assert set(MODE.Mode.keys()) == {"UNKNOWN", *AccessMode}


def test_a_mount_keeps_its_details():
    message = pb.VolumeCapability(
        mount=pb.VolumeCapability.MountVolume(
            fs_type="xfs", mount_flags=["noatime", "discard"], volume_mount_group="7"
        ),
        access_mode=WRITER,
    )
    assert fields.capability(message) == VolumeCapability(
        access_type=AccessType.MOUNT,
        mode=AccessMode.SINGLE_NODE_WRITER,
        fs_type="xfs",
        mount_flags=("noatime", "discard"),
        volume_mount_group="7",
    )


def test_a_capability_without_access_type_is_refused():
    assert "access_type" in refused(fields.capability, pb.VolumeCapability(access_mode=WRITER))


@pytest.mark.parametrize("mode", [None, MODE(), MODE(mode=99)])
def test_a_capability_without_a_known_access_mode_is_refused(mode):
    message = pb.VolumeCapability(block=pb.VolumeCapability.BlockVolume(), access_mode=mode)
    reason = refused(fields.capability, message)
    assert "access_mode" in reason
    assert "SINGLE_NODE_WRITER" in reason


# -- requests of the controller -------------------------------------------------


def create(**changes) -> pb.CreateVolumeRequest:
    return pb.CreateVolumeRequest(**{"name": "data", "volume_capabilities": [MOUNT]} | changes)


def test_a_create_request_is_understood():
    found = controller_requests.create_volume(
        create(
            capacity_range=pb.CapacityRange(required_bytes=5, limit_bytes=9),
            parameters={"backend": "fast"},
            volume_content_source=pb.VolumeContentSource(
                snapshot=pb.VolumeContentSource.SnapshotSource(snapshot_id="s")
            ),
            accessibility_requirements=pb.TopologyRequirement(
                requisite=[pb.Topology(segments={"zone": "a"})],
                preferred=[pb.Topology(segments={"zone": "b"})],
            ),
        )
    )
    assert found.name == "data"
    assert (found.required_bytes, found.limit_bytes) == (5, 9)
    assert found.parameters == {"backend": "fast"}
    assert found.source == Source(kind="snapshot", id="s")
    assert found.requisite == (Topology(segments={"zone": "a"}),)


def test_a_clone_names_its_volume():
    volume = pb.VolumeContentSource(volume=pb.VolumeContentSource.VolumeSource(volume_id="v"))
    found = controller_requests.create_volume(create(volume_content_source=volume))
    assert found.source == Source(kind="volume", id="v")


EMPTY = pb.VolumeContentSource


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": ""}, "name"),
        ({"volume_capabilities": []}, "volume_capabilities"),
        ({"volume_capabilities": [MOUNT, pb.VolumeCapability()]}, "access_type"),
        ({"mutable_parameters": {"iops": "9"}}, "mutable_parameters"),
        ({"parameters": {"k": "v" * 4096}}, "parameters"),
        ({"capacity_range": pb.CapacityRange()}, "capacity_range"),
        ({"volume_content_source": EMPTY()}, "volume_content_source"),
        ({"volume_content_source": EMPTY(snapshot=EMPTY.SnapshotSource())}, "snapshot_id"),
        ({"volume_content_source": EMPTY(volume=EMPTY.VolumeSource())}, "volume_id"),
    ],
)
def test_a_malformed_create_request_is_refused_by_its_field(changes, field):
    assert field in refused(controller_requests.create_volume, create(**changes))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"volume_id": ""}, "volume_id"),
        ({"node_id": ""}, "node_id"),
        ({"volume_capability": None}, "volume_capability"),
        ({"volume_capability": pb.VolumeCapability()}, "access_type"),
    ],
)
def test_a_malformed_publish_request_is_refused_by_its_field(changes, field):
    given = {"volume_id": "v", "node_id": "n", "volume_capability": MOUNT} | changes
    request = pb.ControllerPublishVolumeRequest(**given)
    assert field in refused(controller_requests.publish_volume, request)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"capacity_range": pb.CapacityRange(required_bytes=1)}, "volume_id"),
        ({"volume_id": "v"}, "capacity_range"),
    ],
)
def test_a_malformed_expand_request_is_refused_by_its_field(given, field):
    request = pb.ControllerExpandVolumeRequest(**given)
    assert field in refused(controller_requests.expand_volume, request)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"source_volume_id": "v"}, "name"),
        ({"name": "s"}, "source_volume_id"),
        ({"name": "s\x07", "source_volume_id": "v"}, "control character"),
    ],
)
def test_a_malformed_snapshot_request_is_refused_by_its_field(given, field):
    request = pb.CreateSnapshotRequest(**given)
    assert field in refused(controller_requests.create_snapshot, request)


# -- requests of the node -------------------------------------------------------

STAGE = {"volume_id": "v", "staging_target_path": "/staging", "volume_capability": MOUNT}


@pytest.mark.parametrize("field", STAGE)
def test_a_malformed_stage_request_is_refused_by_its_field(field):
    given = {key: value for key, value in STAGE.items() if key != field}
    assert field in refused(node_requests.stage, pb.NodeStageVolumeRequest(**given))


PUBLISH = {"volume_id": "v", "target_path": "/target", "volume_capability": MOUNT}


@pytest.mark.parametrize("field", PUBLISH)
def test_a_malformed_node_publish_request_is_refused_by_its_field(field):
    given = {key: value for key, value in PUBLISH.items() if key != field}
    assert field in refused(node_requests.publish, pb.NodePublishVolumeRequest(**given))


def test_an_absent_staging_path_is_for_the_node_to_refuse():
    assert node_requests.publish(pb.NodePublishVolumeRequest(**PUBLISH)).staging_path == ""


def test_the_secrets_of_a_stage_request_are_not_in_its_text():
    found = node_requests.stage(
        pb.NodeStageVolumeRequest(**STAGE, secrets={"passphrase": "open-sesame"})
    )
    assert found.secrets == {"passphrase": "open-sesame"}
    assert "open-sesame" not in repr(found)
