"""The other host of two: what a program does there with a volume that it was given access to.

Started by tests/lab/host/relay.py as the job of the second kernel, ``python -m
tests.lab.storage.agent``; ``test_remote`` calls it over XML-RPC and ends it. It has neither Cinder
nor the records, only the attacher, as a node has.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Any
from xmlrpc.client import ServerProxy
from xmlrpc.server import SimpleXMLRPCServer

from csi_driver.attach.attacher import Attacher, AttachSettings
from tests.lab.host import relay
from tests.lab.storage import machine

PORT = 7000


class Agent:
    """The calls; what is no plain type travels as JSON."""

    def __init__(self, address: str) -> None:
        settings = AttachSettings(lock_path=Path("/run/lab/locks"), host="there", my_ip=address)
        self._attacher = Attacher(settings)

    def properties(self) -> str:
        """The connector properties of this host."""
        return json.dumps(self._attacher.connector_properties())

    def attach(self, connection: str) -> str:
        """Attach; the device and what detaching needs."""
        device = self._attacher.connect(json.loads(connection))
        return json.dumps({"path": device.path, "device_info": device.device_info})

    def write(self, path: str, data: str) -> str:
        """Write to the beginning of a device; its digest as this host reads it back."""
        content = base64.b64decode(data)
        with Path(path).open("r+b") as device:
            device.write(content)
            device.flush()
            os.fsync(device.fileno())
            os.posix_fadvise(device.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            device.seek(0)
            return hashlib.sha256(device.read(len(content))).hexdigest()

    def extend(self, connection: str, device_info: str) -> str:
        """Look for the new size; in bytes, as text: XML-RPC's numbers end at 2 GiB."""
        return str(self._attacher.extend(json.loads(connection), json.loads(device_info)))

    def detach(self, connection: str, device_info: str) -> str:
        """Detach; what is left of it on this host."""
        self._attacher.disconnect(json.loads(connection), json.loads(device_info))
        return json.dumps([*machine.sessions(), *machine.disks(), *machine.node_records()])

    def arguments_with(self, text: str) -> list[str]:
        """The command lines of watched programs that hold a text."""
        return machine.arguments_with(text)


def main() -> None:
    """Serve until ``stop``."""
    address = os.environ[relay.ADDRESS]
    machine.start("there")
    machine.add_address(address)
    with SimpleXMLRPCServer((address, PORT), logRequests=False) as server:
        running = True

        def stop() -> bool:
            nonlocal running
            running = False
            return True

        server.register_instance(Agent(address))
        server.register_function(stop)
        while running:
            server.handle_request()


def call(method: str, *arguments: Any) -> Any:
    """Ask the agent of the other kernel."""
    agent = ServerProxy(f"http://{os.environ[relay.OTHER_ADDRESS]}:{PORT}")
    return getattr(agent, method)(*arguments)


if __name__ == "__main__":
    main()
