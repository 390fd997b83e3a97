"""Passwords of iSCSI are written into open-iscsi's records, and nowhere else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from csi_driver.attach import brick, iscsi_records
from csi_driver.attach.errors import AttachFailed

IQN = "iqn.2010-10.org.openstack:volume-1"
FIELD = "node.session.auth.password"

RECORD = """# BEGIN RECORD 2.1.8
node.name = iqn.2010-10.org.openstack:volume-1
node.session.auth.username = user
node.session.auth.password_in = other
# END RECORD
"""


@pytest.fixture(autouse=True)
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(
        iscsi_records, "DATABASES", (tmp_path / "etc", tmp_path / "absent", tmp_path / "var")
    )
    return tmp_path / "etc"


def record(place: Path, text: str = RECORD) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    return place


class TestAField:
    def test_is_added_before_the_end(self) -> None:
        lines = iscsi_records.with_field(RECORD, FIELD, "secret").splitlines()
        assert lines[-2:] == [f"{FIELD} = secret", "# END RECORD"]

    def test_is_replaced_and_no_other_like_it(self) -> None:
        once = iscsi_records.with_field(RECORD, FIELD, "first")
        again = iscsi_records.with_field(once, FIELD, "second = with signs")
        assert again.replace("second = with signs", "first") == once
        assert "password_in = other" in again


class TestANodeSecret:
    def test_goes_to_every_interface_of_the_portal_and_to_no_other(self, database: Path) -> None:
        nodes = database / "nodes" / IQN
        mine = [record(nodes / "192.0.2.1,3260,1" / name) for name in ("default", "iser")]
        others = [
            record(nodes / "192.0.2.1,32601,1" / "default"),
            record(nodes / "192.0.2.11,3260,1" / "default"),
            record(database / "nodes" / f"{IQN}0" / "192.0.2.1,3260,1" / "default"),
        ]
        iscsi_records.write_node_secret("192.0.2.1:3260", IQN, FIELD, "secret")
        assert all(f"{FIELD} = secret" in file.read_text() for file in mine)
        assert [file.read_text() for file in others] == [RECORD] * 3
        assert {file.stat().st_mode & 0o777 for file in mine} == {0o600}

    def test_goes_to_a_record_without_a_portal_group(self, database: Path) -> None:
        file = record(database / "nodes" / IQN / "192.0.2.1,3260")
        iscsi_records.write_node_secret("192.0.2.1:3260,1", IQN, FIELD, "secret")
        assert f"{FIELD} = secret" in file.read_text()

    def test_goes_to_the_other_place_of_distributions(self, tmp_path: Path) -> None:
        file = record(tmp_path / "var" / "nodes" / IQN / "2001:db8::1,3260,1" / "default")
        iscsi_records.write_node_secret("[2001:db8::1]:3260", IQN, FIELD, "secret")
        assert f"{FIELD} = secret" in file.read_text()

    def test_leaves_nothing_but_records(self, database: Path) -> None:
        file = record(database / "nodes" / IQN / "192.0.2.1,3260,1" / "default")
        iscsi_records.write_node_secret("192.0.2.1:3260", IQN, FIELD, "secret")
        assert [path for path in database.rglob("*") if path.is_file()] == [file]

    def test_without_a_record_is_told_without_the_secret(self) -> None:
        with pytest.raises(AttachFailed, match="no record of iqn") as told:
            iscsi_records.write_node_secret("192.0.2.1:3260", IQN, FIELD, "secret")
        assert "secret" not in str(told.value)

    def test_cannot_bring_further_lines(self, database: Path) -> None:
        file = record(database / "nodes" / IQN / "192.0.2.1,3260,1" / "default")
        with pytest.raises(AttachFailed, match="more than one line"):
            iscsi_records.write_node_secret("192.0.2.1:3260", IQN, FIELD, "a\nnode.startup = x")
        assert file.read_text() == RECORD


def test_a_discovery_secret_goes_to_the_record_of_its_portal(database: Path) -> None:
    field = "discovery.sendtargets.auth.password"
    file = record(database / "send_targets" / "192.0.2.1,3260" / "st_config")
    iscsi_records.write_discovery_secret("192.0.2.1:3260", field, "secret")
    assert f"{field} = secret" in file.read_text()
    with pytest.raises(AttachFailed, match=r"discovery at 192\.0\.2\.2"):
        iscsi_records.write_discovery_secret("192.0.2.2:3260", field, "secret")


class TestTheConnector:
    """What os-brick is made to use, with a program in iscsiadm's place that tells its arguments."""

    @pytest.fixture
    def told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        log, program = tmp_path / "arguments", tmp_path / "bin" / "iscsiadm"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\necho "$*" >>{log}\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        return log

    @pytest.fixture
    def connector(self, tmp_path: Path) -> Any:
        brick.prepare(tmp_path / "locks", "sudo")
        from os_brick.initiator import connector

        return connector.InitiatorConnector.factory("ISCSI", "sudo")

    def test_hands_iscsiadm_everything_but_passwords(
        self, connector: Any, told: Path, database: Path
    ) -> None:
        file = record(database / "nodes" / IQN / "192.0.2.1,3260,1" / "default")
        properties = {"target_portal": "192.0.2.1:3260", "target_iqn": IQN}
        connector._iscsiadm_update(properties, "node.session.auth.username", "user-1")
        connector._iscsiadm_update(properties, FIELD, "secret-1")
        assert "user-1" in told.read_text()
        assert "secret-1" not in told.read_text()
        assert f"{FIELD} = secret-1" in file.read_text()

    def test_discovers_without_a_password_among_the_arguments(
        self, connector: Any, told: Path, database: Path
    ) -> None:
        file = record(database / "send_targets" / "192.0.2.1,3260" / "st_config")
        connector._run_iscsiadm_update_discoverydb(
            {
                "target_portal": "192.0.2.1:3260",
                "discovery_auth_method": "CHAP",
                "discovery_auth_username": "user-2",
                "discovery_auth_password": "secret-2",
            }
        )
        assert "user-2" in told.read_text()
        assert "secret-2" not in told.read_text()
        assert "discovery.sendtargets.auth.password = secret-2" in file.read_text()
