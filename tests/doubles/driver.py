"""A Cinder volume driver for tests: small, fast, and as faulty as a test wants it.

It is a real driver, loaded as every other by its name,
``tests.doubles.driver.DoubleDriver``.  Volumes are sizes in memory, or sparse files in
``double_directory``, which a node can attach and which outlive the process.

Faults come from :mod:`tests.doubles.faults` in the same process, or as options, for a
driver in a process of its own:

- ``double_delay``: seconds that every call takes (for benchmarks);
- ``double_fail``: ``operation:when:class[:times]``, as ``create_volume:after:
  tests.doubles.faults.VendorError:1``; without times, always;
- ``double_hold``: ``operation:when:path``: makes ``path.entered`` and waits for ``path``.

It talks as the worst of drivers do: what it logs, and the errors that ``double_fail``
asks for, quote the passwords that it knows.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cinder import exception, interface
from cinder.volume import driver
from oslo_config import cfg

from tests.doubles import faults
from tests.doubles.extras import Extras

LOG = logging.getLogger(__name__)

GIB = 1 << 30

OPTIONS = [
    cfg.StrOpt("double_directory", help="Where volumes are files; in memory without it"),
    cfg.FloatOpt("double_delay", default=0.0, min=0.0, help="Seconds that every call takes"),
    cfg.ListOpt("double_fail", default=[], help="operation:when:class[:times]"),
    cfg.ListOpt("double_hold", default=[], help="operation:when:path"),
    cfg.FloatOpt("double_total_gib", default=1000.0, help="Size of each pool in GiB"),
    cfg.ListOpt("double_pools", default=["one"], help="Names of the pools; none: legacy stats"),
    cfg.BoolOpt("double_multiattach", default=True, help="Whether volumes may be shared"),
    cfg.BoolOpt("double_host_local", default=False, help="Whether only this host sees volumes"),
    cfg.BoolOpt("double_grows_copies", default=True, help="Whether a copy gets its own size"),
    cfg.BoolOpt("double_by_provider", help="Finds only what has what its creation returned"),
    cfg.StrOpt("double_password", secret=True, help="A secret, for messages that must not"),
    cfg.StrOpt("double_login", help="CHAP password of targets; its name tells nobody so"),
]


class _Memory:
    """Volumes as sizes in bytes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sizes: dict[str, int] = {}

    def make(self, name: str, size: int) -> None:
        with self._lock:
            if name in self._sizes:
                raise exception.Duplicate(message=f"{name} exists")
            self._sizes[name] = size

    def copy(self, source: str, name: str, size: int) -> None:
        if source not in self.names():
            raise exception.VolumeNotFound(volume_id=source)
        self.make(name, size)

    def resize(self, name: str, size: int) -> None:
        with self._lock:
            if name not in self._sizes:
                raise exception.VolumeNotFound(volume_id=name)
            self._sizes[name] = size

    def remove(self, name: str) -> None:
        with self._lock:
            self._sizes.pop(name, None)

    def names(self) -> dict[str, int]:
        with self._lock:
            return dict(self._sizes)

    def rename(self, name: str, new_name: str) -> None:
        with self._lock:
            self._sizes[new_name] = self._sizes.pop(name)


class _Files:
    """Volumes as sparse files."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)
        self._directory.mkdir(parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        return self._directory / name

    def make(self, name: str, size: int) -> None:
        with self.path(name).open("xb") as file:
            file.truncate(size)

    def copy(self, source: str, name: str, size: int) -> None:
        if not self.path(source).exists():
            raise exception.VolumeNotFound(volume_id=source)
        with self.path(source).open("rb") as old, self.path(name).open("xb") as new:
            for start, end in _extents(old.fileno()):
                offset = start
                while offset < end:
                    left = end - offset
                    offset += os.copy_file_range(old.fileno(), new.fileno(), left, offset, offset)
            new.truncate(size)

    def resize(self, name: str, size: int) -> None:
        os.truncate(self.path(name), size)

    def remove(self, name: str) -> None:
        self.path(name).unlink(missing_ok=True)

    def names(self) -> dict[str, int]:
        return {path.name: path.stat().st_size for path in self._directory.iterdir()}

    def rename(self, name: str, new_name: str) -> None:
        self.path(name).rename(self.path(new_name))


def _extents(descriptor: int) -> Iterator[tuple[int, int]]:
    """Where a sparse file has data, as offsets of beginnings and ends."""
    end = 0
    while True:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole is left
                return
            raise
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end


@interface.volumedriver
class DoubleDriver(Extras, driver.VolumeDriver):
    """The driver."""

    VERSION = "1.2.3"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.configuration.append_config_values(OPTIONS)
        self.faults = faults.of_backend(self.configuration.volume_backend_name)
        directory = self.configuration.double_directory
        self.shelf: Any = _Files(directory) if directory else _Memory()
        self.exported: set[str] = set()
        self.connected: list[tuple[str, str]] = []
        self._left: dict[str, int] = {}

    @staticmethod
    def get_driver_options() -> list[Any]:
        return OPTIONS

    @property
    def accessible_from_host_only(self) -> bool:
        return bool(self.configuration.double_host_local)

    @property
    def removal_proves_absence(self) -> bool:
        return not self.configuration.double_by_provider

    def do_setup(self, context: Any) -> None:
        with self._work("do_setup", ""):
            pass

    def check_for_setup_error(self) -> None:
        with self._work("check_for_setup_error", ""):
            pass

    # -- volumes

    def create_volume(self, volume: Any) -> dict[str, Any]:
        with self._work("create_volume", volume.id):
            self.shelf.make(volume.name, volume.size * GIB)
        return self._told(volume)

    def create_cloned_volume(self, volume: Any, src_vref: Any) -> dict[str, Any]:
        return self._copied("create_cloned_volume", volume, src_vref.name, src_vref.size)

    def create_volume_from_snapshot(self, volume: Any, snapshot: Any) -> dict[str, Any]:
        operation = "create_volume_from_snapshot"
        return self._copied(operation, volume, snapshot.name, snapshot.volume_size)

    def _copied(self, operation: str, volume: Any, source: str, size: int) -> dict[str, Any]:
        grown = self.configuration.double_grows_copies
        size = volume.size if grown else size
        with self._work(operation, volume.id):
            self.shelf.copy(source, volume.name, size * GIB)
        told = self._told(volume)
        return told if grown else {**told, "size": size}

    def delete_volume(self, volume: Any) -> None:
        with self._work("delete_volume", volume.id):
            if self._finds(volume.provider_id):
                self.shelf.remove(volume.name)

    def extend_volume(self, volume: Any, new_size: int) -> None:
        with self._work("extend_volume", volume.id):
            self.shelf.resize(volume.name, new_size * GIB)

    def revert_to_snapshot(self, context: Any, volume: Any, snapshot: Any) -> None:
        with self._work("revert_to_snapshot", volume.id):
            self.shelf.remove(volume.name)
            self.shelf.copy(snapshot.name, volume.name, volume.size * GIB)

    # -- snapshots

    def create_snapshot(self, snapshot: Any) -> dict[str, Any]:
        with self._work("create_snapshot", snapshot.id):
            self.shelf.copy(snapshot.volume_name, snapshot.name, snapshot.volume_size * GIB)
        return {"provider_location": f"double:{snapshot.name}", "metadata": {"cut": "yes"}}

    def delete_snapshot(self, snapshot: Any) -> None:
        with self._work("delete_snapshot", snapshot.id):
            if self._finds(snapshot.provider_location):
                self.shelf.remove(snapshot.name)

    # -- connections

    def validate_connector(self, connector: dict[str, Any]) -> None:
        if not connector.get("host"):
            raise exception.InvalidConnectorException(missing="host")

    def ensure_export(self, context: Any, volume: Any) -> dict[str, Any]:
        with self._work("ensure_export", volume.id):
            self.exported.add(volume.id)
        return {"provider_auth": f"CHAP again {self.configuration.double_login or 'secret'}"}

    def create_export(self, context: Any, volume: Any, connector: Any) -> dict[str, Any]:
        with self._work("create_export", volume.id):
            self.exported.add(volume.id)
        return {"provider_auth": f"CHAP user {self.configuration.double_login or 'secret'}"}

    def remove_export(self, context: Any, volume: Any) -> None:
        with self._work("remove_export", volume.id):
            self.exported.discard(volume.id)

    def initialize_connection(self, volume: Any, connector: dict[str, Any]) -> dict[str, Any]:
        with self._work("initialize_connection", volume.id):
            pair = (volume.id, connector["host"])
            if pair not in self.connected:
                self.connected.append(pair)
        path = self.shelf.path(volume.name) if isinstance(self.shelf, _Files) else volume.name
        data = {"device_path": str(path)}
        if self.configuration.double_login:
            data |= {"auth_method": "CHAP", "auth_password": self.configuration.double_login}
        return {"driver_volume_type": "local", "data": data}

    def terminate_connection(self, volume: Any, connector: dict[str, Any], **_: Any) -> None:
        with self._work("terminate_connection", volume.id):
            pair = (volume.id, connector["host"])
            if pair in self.connected:
                self.connected.remove(pair)

    # -- statistics

    def _update_volume_stats(self) -> None:
        total = self.configuration.double_total_gib
        used = sum(self.shelf.names().values()) / GIB
        figures = {
            "total_capacity_gb": total,
            "free_capacity_gb": max(0.0, total - used),
            "reserved_percentage": 0,
            "multiattach": self.configuration.double_multiattach,
        }
        with self._work("get_volume_stats", ""):
            self._stats = {
                "volume_backend_name": self.configuration.volume_backend_name,
                "vendor_name": "Doubles",
                "driver_version": self.VERSION,
                "storage_protocol": ["local", "file"],
            }
        names = self.configuration.double_pools
        if names:
            self._stats["pools"] = [{"pool_name": name, **figures} for name in names]
        else:
            self._stats.update(figures)

    def _finds(self, returned: str | None) -> bool:
        return bool(returned) or not self.configuration.double_by_provider

    # -- faults

    def _told(self, volume: Any) -> dict[str, Any]:
        return {
            "provider_id": f"array-{volume.id}",
            "provider_location": f"double:{volume.name}",
            "metadata": {"made-by": "double"},
            "admin_metadata": {"internal": "1"},
        }

    @contextlib.contextmanager
    def _work(self, operation: str, object_id: str) -> Iterator[None]:
        self.faults.enter(operation, object_id)
        LOG.debug("%s of %r%s", operation, object_id, self._quoted())
        try:
            self._misbehave(operation, "before")
            if self.configuration.double_delay:
                time.sleep(self.configuration.double_delay)
            yield
            self._misbehave(operation, "after")
        finally:
            self.faults.leave()

    def _misbehave(self, operation: str, when: faults.When) -> None:
        self.faults.apply(operation, when)
        for entry in self.configuration.double_hold:
            if entry.split(":", 2)[:2] == [operation, when]:
                _hold(Path(entry.split(":", 2)[2]))
        for entry in self.configuration.double_fail:
            if entry.split(":")[:2] == [operation, when]:
                self._fail(entry)

    def _fail(self, entry: str) -> None:
        _, _, path, *times = entry.split(":")
        left = self._left.setdefault(entry, int(times[0]) if times else -1)
        if left == 0:
            return
        self._left[entry] = left - 1
        module, _, name = path.rpartition(".")
        error = getattr(importlib.import_module(module), name)
        raise error(f"{entry} was asked for{self._quoted()}")

    def _quoted(self) -> str:
        """The passwords that the driver was given, and those that it has given out."""
        known = self.configuration
        text = f", the array does not take {known.double_password}" if known.double_password else ""
        if known.double_login and self.exported:
            text += f", the target does not take {known.double_login}"
        return text


def _hold(path: Path) -> None:
    path.with_name(f"{path.name}.entered").touch()
    never = threading.Event()
    deadline = time.monotonic() + faults.PATIENCE_SECONDS
    while not path.exists() and time.monotonic() < deadline:
        never.wait(0.01)
