"""From connection info to a block device and back, by os-brick and the real kernel."""

import json
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import csi_driver
from csi_driver.attach import devices, loop
from csi_driver.attach.attacher import Attacher, AttachSettings
from csi_driver.attach.errors import (
    AttachFailed,
    ConnectorPropertiesFailed,
    LoopDeviceBusy,
    UnsupportedImage,
    UnsupportedTransport,
)
from csi_driver.attach.processes import run
from csi_driver.base.errors import StateDirectoryError
from tests.support.disks import (
    EXT_BYTES,
    MIB,
    command,
    loop_device,
    make_filesystem,
    mounted,
    sparse_file,
    write_at,
)
from tests.support.leftovers import loop_devices_below, release

pytestmark = pytest.mark.root

ROOT = Path(csi_driver.__file__).parents[1]


@pytest.fixture
def attacher(tmp_path: Path) -> Iterator[Attacher]:
    yield Attacher(AttachSettings(lock_path=tmp_path / "locks", host="node-1", my_ip="192.0.2.1"))
    release(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return sparse_file(tmp_path / "volume", EXT_BYTES)


def local(path: Path | str, access_mode: str = "rw", **data: Any) -> dict[str, Any]:
    return {
        "driver_volume_type": "local",
        "data": {"device_path": str(path), "access_mode": access_mode, **data},
    }


class TestAFile:
    def test_becomes_a_loop_device_and_goes_again(self, attacher: Attacher, file: Path) -> None:
        device = attacher.connect(local(file))
        assert device.path == device.loop
        assert loop.devices_of(file) == [device.path]
        assert not devices.is_read_only(device.path)
        assert json.loads(json.dumps(device.device_info)) == device.device_info
        attacher.disconnect(local(file), device.device_info)
        assert loop.devices_of(file) == []

    def test_is_read_only_when_the_access_mode_says_so(
        self, attacher: Attacher, file: Path
    ) -> None:
        device = attacher.connect(local(file, "ro"))
        assert devices.is_read_only(device.path)

    def test_is_left_when_detached_twice_or_never_attached(
        self, attacher: Attacher, file: Path
    ) -> None:
        device = attacher.connect(local(file))
        for device_info in (device.device_info, device.device_info, {}):
            attacher.disconnect(local(file), device_info)
        assert loop.devices_of(file) == []

    def test_is_detached_without_a_note_of_what_was_attached(
        self, attacher: Attacher, file: Path
    ) -> None:
        """After a crash between attaching and noting it, however often."""
        attacher.connect(local(file))
        attacher.connect(local(file))
        attacher.disconnect(local(file), {})
        assert loop.devices_of(file) == []

    def test_is_detached_after_it_was_deleted(self, attacher: Attacher, file: Path) -> None:
        device = attacher.connect(local(file))
        file.unlink()
        attacher.disconnect(local(file), device.device_info)
        assert loop.backing_file(device.path) is None

    def test_of_another_attachment_stays(self, attacher: Attacher, file: Path) -> None:
        mine, other = attacher.connect(local(file)), attacher.connect(local(file))
        with loop_device(file) as foreign:
            attacher.disconnect(local(file), mine.device_info)
            assert sorted(loop.devices_of(file)) == sorted([other.path, foreign])

    def test_whose_number_went_to_another_file_is_left_alone(
        self, attacher: Attacher, file: Path, tmp_path: Path
    ) -> None:
        device = attacher.connect(local(file))
        loop.detach(device.path)
        other = sparse_file(tmp_path / "other", MIB)
        after_reboot = attacher.connect(local(other))
        stale = {**device.device_info, "csi_loop": after_reboot.path}
        attacher.disconnect(local(file), stale)
        assert loop.devices_of(other) == [after_reboot.path]

    def test_that_is_mounted_is_not_detached(
        self, attacher: Attacher, file: Path, tmp_path: Path
    ) -> None:
        device = attacher.connect(local(file))
        make_filesystem(device.path, "ext4")
        with (
            mounted(device.path, tmp_path / "mnt", "ext4"),
            pytest.raises(LoopDeviceBusy, match="mounted at"),
        ):
            attacher.disconnect(local(file), device.device_info)
        attacher.disconnect(local(file), device.device_info)

    def test_shows_its_new_size(self, attacher: Attacher, file: Path) -> None:
        device = attacher.connect(local(file))
        os.truncate(file, 2 * EXT_BYTES)
        assert attacher.extend(local(file), device.device_info) == 2 * EXT_BYTES
        assert devices.size_bytes(device.path) == 2 * EXT_BYTES

    def test_that_is_missing_is_told(self, attacher: Attacher, tmp_path: Path) -> None:
        with pytest.raises(AttachFailed, match="No such file"):
            attacher.connect(local(tmp_path / "missing"))

    @pytest.mark.parametrize("image_format", ["qcow2", "vmdk"])
    def test_of_another_format_is_refused(
        self, attacher: Attacher, file: Path, image_format: str
    ) -> None:
        with pytest.raises(UnsupportedImage, match=image_format):
            attacher.connect(local(file, format=image_format))
        assert loop.devices_of(file) == []

    def test_with_any_content_is_raw_when_told_so(self, attacher: Attacher, file: Path) -> None:
        write_at(file, 0, b"QFI\xfb")
        for connection in (local(file), local(file, format="raw")):
            device = attacher.connect(connection)
            attacher.disconnect(connection, device.device_info)

    def test_many_at_once(self, attacher: Attacher, tmp_path: Path) -> None:
        files = [sparse_file(tmp_path / f"volume-{n}", MIB) for n in range(16)]
        barrier = threading.Barrier(16)

        def there_and_back(file: Path) -> list[str]:
            barrier.wait()
            device = attacher.connect(local(file))
            found = loop.devices_of(file)
            attacher.disconnect(local(file), device.device_info)
            return [*found, device.path]

        with ThreadPoolExecutor(16) as pool:
            for found, made in pool.map(there_and_back, files):
                assert found == made
        assert loop_devices_below(tmp_path) == []


class TestABlockDevice:
    @pytest.fixture
    def disk(self, file: Path) -> Iterator[str]:
        with loop_device(file) as device:
            yield device

    def test_is_used_as_it_is(self, attacher: Attacher, file: Path, disk: str) -> None:
        device = attacher.connect(local(disk))
        assert (device.path, device.loop) == (disk, "")
        attacher.disconnect(local(disk), device.device_info)
        assert loop.devices_of(file) == [disk]

    def test_is_made_read_only_and_writable_again(self, attacher: Attacher, disk: str) -> None:
        device = attacher.connect(local(disk, "ro"))
        assert devices.is_read_only(disk)
        attacher.disconnect(local(disk, "ro"), device.device_info)
        assert not devices.is_read_only(disk)

    def test_that_was_read_only_before_stays_so(self, attacher: Attacher, disk: str) -> None:
        devices.set_read_only(disk, True)
        try:
            device = attacher.connect(local(disk, "ro"))
            attacher.disconnect(local(disk, "ro"), device.device_info)
            assert devices.is_read_only(disk)
        finally:
            devices.set_read_only(disk, False)  # the number is used by other tests

    def test_shows_its_new_size(self, attacher: Attacher, file: Path, disk: str) -> None:
        device = attacher.connect(local(disk))
        os.truncate(file, 2 * EXT_BYTES)
        loop.refresh_size(disk)
        assert attacher.extend(local(disk), device.device_info) == 2 * EXT_BYTES

    def test_is_not_taken_for_a_directory(self, attacher: Attacher, tmp_path: Path) -> None:
        with pytest.raises(UnsupportedTransport, match="neither"):
            attacher.connect(local(tmp_path))


class TestAFileOnAShare:
    """The mount is there before, as another volume of the same share has made it."""

    EXPORT = "192.0.2.7:/volumes"

    @pytest.fixture
    def share(self, tmp_path: Path) -> Iterator[Path]:
        from os_brick.remotefs.remotefs import RemoteFsClient

        client = RemoteFsClient("nfs", "sudo", nfs_mount_point_base=str(tmp_path))
        point = Path(client.get_mount_point(self.EXPORT))
        with mounted("none", point, "tmpfs", "size=1m"):
            yield point

    def connection(self, **data: Any) -> dict[str, Any]:
        known = {"export": self.EXPORT, "name": "volume-1", "options": None}
        return {"driver_volume_type": "nfs", "data": {**known, **data}}

    def test_becomes_a_loop_device_and_goes_again(
        self, attacher: Attacher, share: Path, tmp_path: Path
    ) -> None:
        file = sparse_file(share / "volume-1", EXT_BYTES)
        connection = self.connection(mount_point_base=str(tmp_path), format="raw")
        device = attacher.connect(connection)
        assert loop.devices_of(file) == [device.path]
        os.truncate(file, 2 * EXT_BYTES)
        assert attacher.extend(connection, device.device_info) == 2 * EXT_BYTES
        attacher.disconnect(connection, device.device_info)
        assert loop.devices_of(file) == []

    def test_is_detached_without_a_note_of_what_was_attached(
        self, attacher: Attacher, share: Path, tmp_path: Path
    ) -> None:
        file = sparse_file(share / "volume-1", EXT_BYTES)
        connection = self.connection(mount_point_base=str(tmp_path))
        attacher.connect(connection)
        attacher.disconnect(connection, {})
        assert loop.devices_of(file) == []

    def test_is_refused_when_its_content_is_qcow2(
        self, attacher: Attacher, share: Path, tmp_path: Path
    ) -> None:
        file = sparse_file(share / "volume-1", EXT_BYTES)
        write_at(file, 0, b"QFI\xfb")
        with pytest.raises(UnsupportedImage, match="qcow2"):
            attacher.connect(self.connection(mount_point_base=str(tmp_path)))
        assert loop.devices_of(file) == []

    def test_without_a_mount_base_is_told(self, attacher: Attacher) -> None:
        with pytest.raises(AttachFailed, match="nfs_mount_point_base"):
            attacher.connect(self.connection())


class TestConnectionInfo:
    @pytest.mark.parametrize("kind", ["carrier_pigeon", "vmdk_over_nothing"])
    def test_of_an_unknown_transport_is_refused(self, attacher: Attacher, kind: str) -> None:
        with pytest.raises(UnsupportedTransport, match=kind):
            attacher.connect({"driver_volume_type": kind, "data": {}})

    @pytest.mark.parametrize(
        "connection",
        [{}, {"driver_volume_type": "local"}, {"driver_volume_type": 1, "data": {}}],
    )
    def test_that_is_incomplete_is_refused(
        self, attacher: Attacher, connection: dict[str, Any]
    ) -> None:
        for use in (attacher.connect, lambda c: attacher.disconnect(c, {})):
            with pytest.raises(UnsupportedTransport, match="names no"):
                use(connection)

    def test_that_lacks_what_the_transport_needs_is_told(self, attacher: Attacher) -> None:
        with pytest.raises(AttachFailed, match="no 'target_portal'"):
            attacher.connect({"driver_volume_type": "iscsi", "data": {}})

    def test_is_not_changed(self, attacher: Attacher, file: Path) -> None:
        connection = local(file)
        before = json.dumps(connection)
        attacher.disconnect(connection, attacher.connect(connection).device_info)
        assert json.dumps(connection) == before


class TestConnectorProperties:
    def test_name_the_host_and_its_address(self, attacher: Attacher) -> None:
        properties = attacher.connector_properties()
        assert (properties["host"], properties["ip"]) == ("node-1", "192.0.2.1")
        assert properties["multipath"] is False
        assert properties["do_local_attach"] is True
        assert json.loads(json.dumps(properties)) == properties

    def test_find_an_address_when_none_is_given(self, tmp_path: Path) -> None:
        attacher = Attacher(AttachSettings(lock_path=tmp_path / "locks"))
        properties = attacher.connector_properties()
        assert properties["ip"].count(".") == 3
        assert properties["host"] == os.uname().nodename

    @pytest.mark.parametrize(("exit_code", "multipath"), [(0, True), (1, False)])
    def test_offer_multipath_only_with_a_running_daemon(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exit_code: int, multipath: bool
    ) -> None:
        put_on_path(tmp_path, monkeypatch, "multipathd", exit_code)
        attacher = Attacher(AttachSettings(lock_path=tmp_path / "locks", multipath=True))
        assert attacher.connector_properties()["multipath"] is multipath

    def test_are_asked_for_by_the_commands_of_whoever_runs_them_himself(
        self, tmp_path: Path
    ) -> None:
        ran = []

        def execute(*command: str, **_: Any) -> tuple[str, str]:
            ran.append(command)
            return "", ""

        attacher = Attacher(AttachSettings(lock_path=tmp_path / "locks", multipath=True))
        # Here multipathd does not run.
        assert attacher.connector_properties(execute)["multipath"] is True
        assert ("multipathd", "show", "status") in ran

    def test_are_refused_without_the_daemon_when_multipath_is_enforced(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put_on_path(tmp_path, monkeypatch, "multipathd", 1)
        settings = AttachSettings(
            lock_path=tmp_path / "locks", multipath=True, enforce_multipath=True
        )
        with pytest.raises(ConnectorPropertiesFailed, match="Start multipathd"):
            Attacher(settings).connector_properties()
        with pytest.raises(AttachFailed, match="Start multipathd"):
            Attacher(settings).connect({"driver_volume_type": "iscsi", "data": {}})
        # What is attached can still be detached.
        Attacher(settings).disconnect(local(tmp_path / "volume"), {})


class TestTheProcess:
    def test_stays_small(self, tmp_path: Path) -> None:
        """No eventlet, no Cinder, no database, no VMware client and no requests on a node."""
        heavy = {"eventlet", "cinder", "sqlalchemy", "oslo_vmware", "requests"}
        told = in_a_new_process(
            tmp_path,
            f"attacher.connector_properties()\nprint(sorted({heavy} & set(sys.modules)))",
        )
        assert told == "[]"

    def test_loads_requests_when_scaleio_s_connector_uses_it(self, tmp_path: Path) -> None:
        told = in_a_new_process(
            tmp_path,
            "attacher.connector_properties()\n"
            "from os_brick.initiator.connectors import scaleio\n"
            "print(scaleio.requests.exceptions.Timeout.__name__, end=' ')\n"
            "import requests\n"
            "print(scaleio.requests.get is requests.get)",
        )
        assert told == "Timeout True"

    def test_can_load_cinder_afterwards(self, tmp_path: Path) -> None:
        told = in_a_new_process(
            tmp_path,
            "attacher.connector_properties()\n"
            "import cinder.utils\n"
            "print('eventlet' in sys.modules)",
        )
        assert told == "True"

    def test_keeps_its_clock_and_its_lock_directory(self, tmp_path: Path) -> None:
        told = in_a_new_process(
            tmp_path,
            "sleep = time.sleep\n"
            "attacher.connector_properties()\n"
            "from oslo_config import cfg\n"
            "print(time.sleep is sleep, cfg.CONF.os_brick.lock_path)",
        )
        assert told == f"True {tmp_path}/locks"

    def test_uses_the_lock_directory_that_was_there_first(self, tmp_path: Path) -> None:
        told = in_a_new_process(
            tmp_path,
            "from oslo_concurrency import lockutils\n"
            "from oslo_config import cfg\n"
            "cfg.CONF.set_override('lock_path', '/run/first', group='oslo_concurrency')\n"
            "attacher.connector_properties()\n"
            "print(cfg.CONF.os_brick.lock_path)",
        )
        assert told == "/run/first"

    def test_starts_programs_for_os_brick_without_a_fork(self, tmp_path: Path) -> None:
        told = in_a_new_process(
            tmp_path,
            "forks = []\n"
            "os.register_at_fork(before=lambda: forks.append(1))\n"
            "attacher.connector_properties()\n"
            "from os_brick.privileged import rootwrap\n"
            "print(rootwrap.execute('echo', 'ran', run_as_root=True)[0].strip(), forks)",
        )
        assert told == "ran []"

    def test_without_a_usable_lock_directory_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "locks").write_text("")
        told = in_a_new_process(
            tmp_path,
            f"from {StateDirectoryError.__module__} import StateDirectoryError\n"
            "try:\n"
            "    attacher.connector_properties()\n"
            "except StateDirectoryError as error:\n"
            "    print(error.message)",
        )
        assert told == f"{tmp_path}/locks cannot be made: File exists"


def in_a_new_process(directory: Path, script: str) -> str:
    """What a script prints that starts with an attacher in a fresh interpreter."""
    start = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from csi_driver.attach.attacher import Attacher, AttachSettings\n"
        f"attacher = Attacher(AttachSettings(lock_path=Path({str(directory)!r}, 'locks')))\n"
    )
    done = run(["env", f"PYTHONPATH={ROOT}", sys.executable, "-c", start + script])
    return done.stdout.strip()


def put_on_path(
    directory: Path, monkeypatch: pytest.MonkeyPatch, program: str, exit_code: int
) -> None:
    """A program of that name that ends with that code, found before any other."""
    script = directory / program
    script.write_text(f"#!/bin/sh\nexit {exit_code}\n")
    command("chmod", "+x", str(script))
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
