"""`cinder-csi serve --health-port`: the endpoints that kubelet asks."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from pathlib import Path

from tests.support.driver_process import DriverProcess


def ask(port: int, path: str) -> tuple[int, str]:
    """The code and the text of an answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode().strip()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode().strip()


def _arguments(port: int) -> list[str]:
    return [f"--health-port={port}", "--health-address=127.0.0.1"]


def test_a_serving_process_is_alive_and_ready(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with DriverProcess(tmp_path, store="memory", arguments=_arguments(port)):
        assert ask(port, "/healthz") == (200, "alive")
        assert ask(port, "/readyz") == (200, "serving")
        assert ask(port, "/other")[0] == 404


def test_a_port_that_is_taken_is_a_clear_error(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = DriverProcess(tmp_path, store="memory", arguments=_arguments(port))
        process.spawn()
        assert process.wait() != 0
    assert f"port {port} cannot be listened on" in process.logs()
    assert "Traceback" not in process.logs()
