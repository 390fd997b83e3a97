"""What keeps `cinder-csi serve` from starting: one line, an exit code, and nothing harmed."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from csi_driver.config import FILE_DRIVER
from tests.support.calls import Calls
from tests.support.driver_process import DriverProcess

COMMAND = Path(sys.executable).with_name("cinder-csi")


class Ended:
    """How a `cinder-csi serve` that cannot start ended."""

    def __init__(self, state: Path, *arguments: str) -> None:
        done = subprocess.run(
            [COMMAND, "serve", "--state-dir", state, "--node-id", "n1", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.code = done.returncode
        self.output = done.stdout + done.stderr
        lines = [line for line in self.output.splitlines() if line.startswith("cinder-csi: ")]
        assert len(lines) == 1, self.output
        assert "Traceback" not in self.output
        (self.line,) = lines


def test_a_state_directory_below_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").touch()
    ended = Ended(tmp_path / "file" / "state")
    assert ended.code == 1
    assert "cannot be made" in ended.line
    assert "--state-dir" in ended.line


def test_a_state_directory_that_is_a_file_is_refused(tmp_path: Path):
    (tmp_path / "state").touch()
    assert Ended(tmp_path / "state").code == 1


@pytest.mark.root
def test_a_state_directory_that_cannot_be_written_is_refused(tmp_path: Path):
    state = tmp_path / "state"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", state], check=True)
    try:
        ended = Ended(state, "--endpoint", f"unix://{tmp_path}/csi.sock")
    finally:
        subprocess.run(["umount", state], check=True)
    assert ended.code == 1
    assert f"{state} is not writable" in ended.line
    assert not (tmp_path / "csi.sock").exists()


def test_a_socket_that_another_process_serves_on_is_left_alone(tmp_path: Path):
    path = tmp_path / "csi.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        ended = Ended(tmp_path / "state", "--endpoint", f"unix://{path}")
        assert path.exists()
    assert ended.code == 1
    assert f"Another process serves on {path}" in ended.line


def test_a_path_that_is_no_socket_is_left_alone(tmp_path: Path):
    path = tmp_path / "csi.sock"
    path.write_text("precious")
    ended = Ended(tmp_path / "state", "--endpoint", f"unix://{path}")
    assert ended.code == 2
    assert "is no socket" in ended.line
    assert path.read_text() == "precious"


# -- record stores --------------------------------------------------------------


@pytest.fixture
def used(tmp_path: Path, driver) -> Path:
    """A state directory that served with a db store."""
    with driver("used") as process:
        return process.state_directory


def records(state: Path) -> Path:
    return state / "records" / "records.sqlite"


def test_a_store_that_another_process_uses_is_refused(tmp_path: Path, driver):
    with driver() as process:
        pid = process.pid
        ended = Ended(process.state_directory, "--endpoint", f"unix://{tmp_path}/other.sock")
    assert ended.code == 1
    assert str(pid) in ended.line
    assert not (tmp_path / "other.sock").exists()


def test_a_corrupt_store_is_refused_and_left_alone(used: Path):
    records(used).write_bytes(b"not a database" * 1000)
    ended = Ended(used)
    assert ended.code == 1
    assert str(records(used)) in ended.line
    assert "backup" in ended.line
    assert records(used).read_bytes() == b"not a database" * 1000


def test_a_newer_store_is_refused(used: Path):
    with closing(sqlite3.connect(records(used))) as database, database:
        database.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    ended = Ended(used)
    assert ended.code == 1
    assert "99" in ended.line
    assert "newer" in ended.line


def test_a_lost_store_is_refused_beside_a_directory_that_served(used: Path):
    for path in records(used).parent.iterdir():
        path.unlink()
    ended = Ended(used)
    assert ended.code == 2
    assert "is empty and new" in ended.line
    assert "Restore the store from a backup" in ended.line


def test_another_kind_of_store_is_refused(used: Path):
    ended = Ended(used, "--store", "memory")
    assert ended.code == 2
    assert "was used with --store db, not memory" in ended.line


@pytest.mark.parametrize("name", ["keys/transport.json", "installation.json"])
def test_a_damaged_file_of_the_state_directory_is_named(used: Path, name: str):
    (used / name).write_text("{")
    ended = Ended(used)
    assert ended.code == 2
    assert str(used / name) in ended.line
    assert (used / name).read_text() == "{"


@pytest.mark.parametrize(
    ("backend", "complaint"),
    [
        ("{name: a}", "missing required field `volume_driver`"),
        ("{name: a, volume_driver: no.such.Driver}", "no.such"),
        (f"{{name: a, volume_driver: {FILE_DRIVER}, options: {{file_volume_dir: /x}}}}", "Did you"),
    ],
)
def test_a_backend_that_cannot_be_is_named(tmp_path: Path, backend: str, complaint: str):
    (tmp_path / "csi.yaml").write_text(f"backends: [{backend}]\n")
    ended = Ended(tmp_path / "state", "--config", str(tmp_path / "csi.yaml"))
    assert ended.code == 2
    assert complaint in ended.line


def test_a_configured_backend_serves_under_its_name(tmp_path: Path):
    (tmp_path / "csi.yaml").write_text(
        f"backends: [{{name: disk, volume_driver: {FILE_DRIVER},"
        f" options: {{file_volume_directory: {tmp_path}/volumes}}}}]\n"
    )
    arguments = ["--config", str(tmp_path / "csi.yaml")]
    with DriverProcess(tmp_path, arguments=arguments) as process, Calls(process) as calls:
        request = calls.create_request("pvc-1")
        request.parameters["backend"] = "disk"
        calls.controller.CreateVolume(request, timeout=60)
        assert len([path for path in (tmp_path / "volumes").rglob("*") if path.is_file()]) > 0
