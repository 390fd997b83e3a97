"""Keys are rotated while controller and node run: volumes stay usable, old keys go when unused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from csi_driver.base.publish_context import KEY
from csi_driver.base.sealing import KeyRing, key_id_of, load
from csi_driver.config import BackendSettings
from tests.support import leftovers
from tests.support.calls import Calls
from tests.support.driver_process import COMMAND, DriverProcess
from tests.support.state import records

NODE = "node-1"


@pytest.fixture
def process(driver, tmp_path: Path) -> Iterator[DriverProcess]:
    """A process whose backend gives its volumes CHAP passwords."""
    backend = BackendSettings(
        name="array",
        driver="tests.doubles.driver.DoubleDriver",
        options={"double_directory": str(tmp_path / "array"), "double_login": "target-login-1"},
    )
    backends = tmp_path / "backends.json"
    backends.write_bytes(msgspec.json.encode([backend]))
    yield driver(
        node_id=NODE,
        command=(sys.executable, "-m", "tests.support.serve_backend", str(backends)),
        environment={"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    leftovers.release(tmp_path)


class Keys:
    """`cinder-csi keys` on the state directory of a process."""

    def __init__(self, process: DriverProcess) -> None:
        self._state = process.state_directory

    def __call__(self, *arguments: str) -> str:
        command = [COMMAND, "keys", *arguments, "--state-dir", str(self._state)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def refused(self, *arguments: str) -> str:
        command = [COMMAND, "keys", *arguments, "--state-dir", str(self._state)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        return done.stderr

    def current(self, ring: str) -> str:
        return load(self._state / "keys" / f"{ring}.json").current

    def known(self, ring: str) -> set[str]:
        return set(load(self._state / "keys" / f"{ring}.json").keys)


@pytest.mark.root
def test_transport_keys_change_under_published_volumes(process: DriverProcess, tmp_path: Path):
    keys = Keys(process)
    with process, Calls(process) as calls:
        first, second = (calls.create(name).volume_id for name in ("first", "second"))
        before = calls.publish(first, NODE)
        old = keys.current("transport")
        keys("rotate", "--ring", "transport")
        after = calls.publish(second, NODE)
        assert key_id_of(before[KEY]) == old
        assert key_id_of(after[KEY]) == keys.current("transport") != old
        assert calls.publish(first, NODE) == before, "a retry answers the same"
        calls.stage(first, before, str(tmp_path / "staged-1"))
        calls.stage(second, after, str(tmp_path / "staged-2"))
        assert "Stop the other process" in keys.refused("prune")
    assert f"key {old} stays, volumes published with it: 1" in keys("prune")
    with process, Calls(process) as calls:
        for volume, staging in ((first, "staged-1"), (second, "staged-2")):
            calls.unstage(volume, str(tmp_path / staging))
            calls.unpublish(volume, NODE)
            calls.delete(volume)
    assert f"transport: key {old} removed" in keys("prune")
    assert keys.known("transport") == {keys.current("transport")}


def test_records_are_sealed_with_the_new_key_at_the_next_start(process: DriverProcess):
    keys = Keys(process)

    def sealed_with() -> dict[str, str]:
        return {
            record["name"]: key_id_of(record["provider"]["provider_auth"].removeprefix("sealed:"))
            for record in records(process.state_directory, "volume")
        }

    with process, Calls(process) as calls:
        calls.publish(calls.create("first").volume_id, NODE)
        old = keys.current("records")
        assert "when it starts next" in keys("rotate", "--ring", "records")
        new = keys.current("records")
        calls.publish(calls.create("second").volume_id, NODE)
        assert sealed_with() == {"first": old, "second": new}
    with process, Calls(process) as calls:
        assert sealed_with() == {"first": new, "second": new}
        assert len(calls.published()) == 2
    assert f"records: key {old} removed" in keys("prune", "--ring", "records")
    with process, Calls(process) as calls:
        for volume in calls.published():
            calls.unpublish(volume, NODE)
            calls.delete(volume)


def test_with_the_keys_of_another_installation_nothing_starts(process: DriverProcess):
    with process, Calls(process) as calls:
        calls.publish(calls.create("data").volume_id, NODE)
    path = process.state_directory / "keys" / "records.json"
    right = path.read_bytes()
    for wrong in (None, right.replace(b'"', b"'"), msgspec.json.encode(KeyRing.generate())):
        path.unlink()
        if wrong is not None:
            path.write_bytes(wrong)
        done = subprocess.run(
            [COMMAND, "serve", "--state-dir", str(process.state_directory)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in (1, 2)
        told = done.stderr.strip().splitlines()[-1]
        assert told.startswith("cinder-csi: ")
        assert "records.json" in told
        assert "backup" in told
        assert "Traceback" not in done.stderr
        path.write_bytes(right)
    with process, Calls(process) as calls:
        assert len(calls.published()) == 1, "the right keys put everything right"


def test_a_node_has_no_key_of_records(driver):
    with driver(role="node") as node:
        assert [path.name for path in (node.state_directory / "keys").iterdir()] == [
            "transport.json"
        ]
