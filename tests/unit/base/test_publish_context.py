"""The sealed publish_context: round trip, binding, the 4 KiB limit of CSI."""

from __future__ import annotations

import secrets

import msgspec
import pytest

from csi_driver.base.errors import InvalidRequest, SealError
from csi_driver.base.masking import SECRETS
from csi_driver.base.publish_context import (
    KEY,
    LIMIT_BYTES,
    PublishContextTooLarge,
    open_context,
    seal,
)
from csi_driver.base.sealing import KeyRing
from csi_driver.base.values import Formatting, PublishContext

KEYS = KeyRing.generate()
DRIVER = "csi.example.org"
BINDING = (DRIVER, "vol-1", "node-1")


def context(**data: object) -> PublishContext:
    return PublishContext(
        volume_id="vol-1",
        node_id="node-1",
        connection={"driver_volume_type": "iscsi", "data": data},
        size_bytes=1 << 30,
        formatting=Formatting(fs_uuid="f00d"),
    )


def test_what_was_sealed_is_opened_by_the_same_driver_volume_and_node():
    original = context(target_portal="192.0.2.1:3260", auth_password="hunter2")
    sealed = seal(original, KEYS, DRIVER)
    assert "hunter2" not in str(sealed)
    assert open_context(sealed, KEYS, DRIVER, "vol-1", "node-1") == original


@pytest.mark.parametrize(
    ("driver", "volume", "node"),
    [("other", "vol-1", "node-1"), (DRIVER, "vol-2", "node-1"), (DRIVER, "vol-1", "node-2")],
)
def test_it_is_of_no_use_to_another_driver_volume_or_node(driver, volume, node):
    sealed = seal(context(), KEYS, DRIVER)
    with pytest.raises(SealError):
        open_context(sealed, KEYS, driver, volume, node)


def test_a_map_without_the_sealed_value_is_an_invalid_request():
    with pytest.raises(InvalidRequest, match="vol-1"):
        open_context({}, KEYS, DRIVER, "vol-1", "node-1")


def test_a_context_that_is_not_ours_inside_is_refused():
    text = KEYS.seal(msgspec.json.encode({"volume_id": 5}), (DRIVER, "vol-1", "node-1"))
    with pytest.raises(SealError, match="another release"):
        open_context({KEY: text}, KEYS, DRIVER, "vol-1", "node-1")


def test_zoning_data_is_kept_when_it_fits():
    zoning = {"50014380186b3f65": ["20210002ac00383d"]}
    sealed = seal(context(initiator_target_map=zoning), KEYS, DRIVER)
    opened = open_context(sealed, KEYS, DRIVER, "vol-1", "node-1")
    assert opened.connection["data"]["initiator_target_map"] == zoning


def test_zoning_data_is_dropped_when_the_map_would_exceed_the_limit():
    zoning = {secrets.token_hex(8): [secrets.token_hex(8) for _ in range(16)] for _ in range(32)}
    original = context(target_wwn=["20210002ac00383d"], initiator_target_map=zoning)
    sealed = seal(original, KEYS, DRIVER)
    assert sum(len(k) + len(v) for k, v in sealed.items()) <= LIMIT_BYTES
    opened = open_context(sealed, KEYS, DRIVER, "vol-1", "node-1")
    assert opened.connection["data"] == {"target_wwn": ["20210002ac00383d"]}
    assert "initiator_target_map" in original.connection["data"]


def test_connection_info_that_cannot_fit_is_refused_with_advice():
    portals = [
        f"[2001:db8::{secrets.token_hex(2)}]:{n}" + secrets.token_hex(16) for n in range(199)
    ]
    with pytest.raises(PublishContextTooLarge, match="fewer portals"):
        seal(context(target_portals=portals), KEYS, DRIVER)


@pytest.mark.parametrize("side", ["controller", "node"])
def test_its_passwords_are_masked_in_what_either_side_says_from_then_on(side: str):
    password = f"password-that-the-{side}-knows"
    sealed = {KEY: KEYS.seal(msgspec.json.encode(context(auth_password=password)), BINDING)}
    if side == "controller":
        seal(context(auth_password=password), KEYS, DRIVER)
    else:
        open_context(sealed, KEYS, *BINDING)
    assert password not in SECRETS.mask(f"login with {password} failed")
