"""StorageClass parameters: ours understood, Kubernetes' kept, others refused helpfully."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_driver.base.errors import InvalidRequest
from csi_driver.controller.parameters import (
    KUBERNETES_PREFIX,
    METADATA_KEYS,
    SNAPSHOT_PARAMETERS,
    VOLUME_PARAMETERS,
    parse,
)


def test_without_parameters_everything_is_default():
    found = parse({}, VOLUME_PARAMETERS)
    assert (found.backend, found.pool, found.metadata, found.description) == ("", "", {}, "")


def test_ours_are_understood():
    found = parse({"backend": "fast", "pool": "ssd"}, VOLUME_PARAMETERS)
    assert (found.backend, found.pool) == ("fast", "ssd")


def test_what_kubernetes_says_of_the_claim_is_kept_apart_from_ours():
    given_by_kubernetes = {key: f"the {label}" for key, label in METADATA_KEYS.items()}
    found = parse({"backend": "fast"} | given_by_kubernetes, VOLUME_PARAMETERS)
    assert found.metadata == given_by_kubernetes
    assert found.chosen == {"backend": "fast"}


def test_what_kubernetes_adds_some_day_is_accepted():
    found = parse({KUBERNETES_PREFIX + "news/of-tomorrow": "x"}, VOLUME_PARAMETERS)
    assert found.metadata == {}


@pytest.mark.parametrize(
    ("names", "line"),
    [
        ({"pvc/name": "data", "pvc/namespace": "shop"}, "PVC shop/data"),
        ({"pvc/name": "data"}, "PVC data"),
        (
            {"pvc/name": "data", "pvc/namespace": "shop", "pv/name": "pvc-1"},
            "PVC shop/data, PV pvc-1",
        ),
        (
            {"volumesnapshot/name": "daily", "volumesnapshot/namespace": "shop"},
            "VolumeSnapshot shop/daily",
        ),
        ({"pvc/namespace": "shop"}, ""),
    ],
)
def test_the_backend_gets_kubernetes_names_as_one_line(names, line):
    given_by_kubernetes = {KUBERNETES_PREFIX + key: value for key, value in names.items()}
    assert parse(given_by_kubernetes, VOLUME_PARAMETERS).description == line


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("Backend", "backend"), ("backends", "backend"), ("pol", "pool"), ("Pool", "pool")],
)
def test_a_misspelt_parameter_is_answered_with_the_nearest_right_one(wrong, right):
    with pytest.raises(InvalidRequest, match=f"Unknown parameter '{wrong}'.*'{right}'"):
        parse({wrong: "x"}, VOLUME_PARAMETERS)


def test_a_parameter_unlike_all_is_answered_with_all():
    with pytest.raises(InvalidRequest, match=r"Accepted parameters: backend, pool$"):
        parse({"zzz": "x"}, VOLUME_PARAMETERS)
    with pytest.raises(InvalidRequest, match=r"Accepted parameters: none$"):
        parse({"zzz": "x"}, SNAPSHOT_PARAMETERS)


@given(st.text())
def test_nothing_unknown_is_ever_ignored(key):
    if key in VOLUME_PARAMETERS or key.startswith(KUBERNETES_PREFIX):
        return
    with pytest.raises(InvalidRequest):
        parse({key: "x"}, VOLUME_PARAMETERS)
