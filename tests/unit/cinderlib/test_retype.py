"""Other specs for a volume that exists, as Cinder's manager asks its driver for them."""

from __future__ import annotations

from typing import Any

import pytest

import csi_driver.cinderlib as cinderlib
from csi_driver.cinderlib import retyping
from csi_driver.cinderlib.persistence.records import VolumeRecord
from tests.doubles import faults
from tests.doubles.faults import VendorError

BACK_END = {"consumer": "back-end", "iops": "100"}


def stored(volume: cinderlib.Volume) -> VolumeRecord:
    return cinderlib.Volume.get_by_id(volume.id)._record


def test_the_driver_gets_type_difference_and_host_and_the_specs_change(
    backend: cinderlib.Backend,
) -> None:
    volume = backend.create_volume(1, extra_specs={"tier": "slow", "kept": "x"})
    backend.driver.retype_answer = (True, {"metadata": {"moved": "yes"}})

    volume.retype(extra_specs={"tier": "fast", "kept": "x", "new": "1"}, qos_specs=BACK_END)

    new_type, diff, host = backend.driver.retyped
    assert diff == {
        "extra_specs": {"tier": ("slow", "fast"), "kept": ("x", "x"), "new": (None, "1")},
        "qos_specs": {"consumer": (None, "back-end"), "iops": (None, "100")},
        "encryption": {},
    }
    assert new_type.extra_specs == {"tier": "fast", "kept": "x", "new": "1"}
    assert new_type.qos_specs.specs == {"iops": "100"}
    assert host["host"].endswith(f"@{backend.id}#one")
    assert host["capabilities"]["pool_name"] == "one"
    assert host["capabilities"]["vendor_name"] == "Doubles"
    record = stored(volume)
    assert record.extra_specs == {"tier": "fast", "kept": "x", "new": "1"}
    assert record.qos_specs == BACK_END
    assert record.metadata["moved"] == "yes"
    assert record.operation is None


def test_the_difference_of_equal_types_is_none_in_cinders_eyes(backend: cinderlib.Backend) -> None:
    volume = backend.create_volume(1, extra_specs={"a": "b"}, qos_specs=BACK_END)

    volume.retype(extra_specs={"a": "b"}, qos_specs=BACK_END)
    volume.retype()

    assert "retype" not in faults.of_backend(backend.id).operations()


@pytest.mark.parametrize("answer", [False, (False, None), None])
def test_what_cinder_would_migrate_for_is_refused_and_nothing_changes(
    backend: cinderlib.Backend, answer: Any
) -> None:
    volume = backend.create_volume(1, extra_specs={"tier": "slow"})
    backend.driver.retype_answer = answer

    with pytest.raises(cinderlib.OperationNotSupported, match=r"extra_specs\.tier") as raised:
        volume.retype(extra_specs={"tier": "fast"})

    assert "copy the data" in str(raised.value)
    assert stored(volume).extra_specs == {"tier": "slow"}
    assert volume.status == "available"


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_failure_leaves_the_old_specs_and_the_intent(
    backend: cinderlib.Backend, when: faults.When
) -> None:
    volume = backend.create_volume(1, extra_specs={"tier": "slow"})
    faults.of_backend(backend.id).fail("retype", VendorError("half"), when)

    with pytest.raises(VendorError) as raised:
        volume.retype(extra_specs={"tier": "fast"})

    assert raised.value.resource is volume  # type: ignore[attr-defined]
    record = stored(volume)
    assert record.extra_specs == {"tier": "slow"}
    assert record.operation is not None
    assert record.operation.kind == "retype"
    assert record.operation.wanted["extra_specs"] == {"tier": "fast"}
    assert record.operation.last_error == "half"

    volume.retype(extra_specs={"tier": "fast"})

    assert stored(volume).extra_specs == {"tier": "fast"}
    assert stored(volume).operation is None


def test_the_intent_is_stored_before_the_driver_is_called(backend: cinderlib.Backend) -> None:
    volume = backend.create_volume(1)
    gate = faults.of_backend(backend.id).hold("retype")
    seen = []

    def look(context: Any, called: Any, *_: Any) -> bool:
        seen.append(stored(volume).operation)
        return True

    gate.release()
    backend.driver.retype = look
    volume.retype(qos_specs=BACK_END)

    assert seen[0] is not None
    assert seen[0].wanted["qos_specs"] == BACK_END


def test_what_a_connected_volume_cannot_change_is_refused(backend: cinderlib.Backend) -> None:
    volume = backend.create_volume(1, qos_specs={"consumer": "front-end", "total_iops_sec": "5"})
    volume.connect({"host": "node1"})

    with pytest.raises(cinderlib.InvalidVolume, match="hosts enforce"):
        volume.retype(qos_specs={"consumer": "front-end", "total_iops_sec": "6"})
    with pytest.raises(cinderlib.InvalidVolume, match="multiattach"):
        volume.retype(multiattach=True)
    volume.retype(extra_specs={"tier": "fast"})

    assert stored(volume).extra_specs == {"tier": "fast"}


def test_multiattach_is_a_flag_by_either_name(backend: cinderlib.Backend) -> None:
    volume = backend.create_volume(1)

    volume.retype(extra_specs={"multiattach": "<is> True"})

    assert backend.driver.retyped[1]["extra_specs"] == {"multiattach": (None, "<is> True")}
    assert stored(volume).multiattach
    assert stored(volume).extra_specs == {}
    with pytest.raises(cinderlib.InvalidVolume, match="asked for and not"):
        volume.retype(extra_specs={"multiattach": "<is> True"}, multiattach=False)
    with pytest.raises(cinderlib.InvalidVolume, match="are text"):
        volume.retype(extra_specs={"thin": True})  # type: ignore[dict-item]


def test_replication_follows_the_type_where_the_driver_says_nothing(
    backend: cinderlib.Backend,
) -> None:
    volume = backend.create_volume(1)

    volume.retype(extra_specs={"replication_enabled": "<is> True"})
    assert stored(volume).provider["replication_status"] == "enabled"
    backend.driver.retype_answer = (True, {"replication_status": "error"})
    volume.retype(extra_specs={})

    assert stored(volume).provider["replication_status"] == "error"


def test_a_volume_too_large_for_its_new_type_is_refused_as_cinder_does(
    backend: cinderlib.Backend,
) -> None:
    from cinder import exception

    volume = backend.create_volume(2)

    with pytest.raises(exception.InvalidInput, match="maximum allowable size"):
        volume.retype(extra_specs={"provisioning:max_vol_size": "1"})

    assert "retype" not in faults.of_backend(backend.id).operations()
    assert volume.status == "available"


def test_changed_names_are_those_that_differ() -> None:
    diff = {
        "extra_specs": {"a": ("1", "1"), "b": (None, "2")},
        "qos_specs": {"c": ("x", None)},
        "encryption": {},
    }

    assert retyping.changed_names(diff) == ["extra_specs.b", "qos_specs.c"]
