"""The pool of the cluster as librbd and librados show it, beside the driver."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.lab.ceph.cluster import COMMAND_SECONDS, POOL, USER

EMPTY = frozenset({"rbd_children", "rbd_directory", "rbd_info", "rbd_trash"})
"""RADOS objects that a pool keeps after its last image."""


class Pool:
    """Reads and writes images, and tells what there is.  A context manager."""

    def __init__(self, conf: Path) -> None:
        # Only where the bindings are on the path.
        import rados
        import rbd

        self.rbd: Any = rbd
        self._rados: Any = rados
        self._cluster: Any = rados.Rados(rados_id=USER, conffile=str(conf))

    def __enter__(self) -> Self:
        self._cluster.connect(timeout=COMMAND_SECONDS)
        self.ioctx = self._cluster.open_ioctx(POOL)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.ioctx.close()
        self._cluster.shutdown()

    def image(self, name: str, *, read_only: bool = False) -> Any:
        """An open image, itself a context manager."""
        return self.rbd.Image(self.ioctx, name, read_only=read_only)

    def images(self) -> set[str]:
        """The names of all images."""
        return set(self.rbd.RBD().list(self.ioctx))

    def snapshots(self, name: str) -> set[str]:
        """The names of an image's snapshots, hidden ones too."""
        with self.image(name, read_only=True) as image:
            return {found["name"] for found in image.list_snaps()}

    def size(self, name: str) -> int:
        """The size of an image in bytes."""
        with self.image(name, read_only=True) as image:
            return int(image.size())

    def write(self, name: str, data: bytes, offset: int = 0) -> None:
        """Write into an image, and wait until it is there."""
        with self.image(name) as image:
            image.write(data, offset)
            image.flush()

    def read(self, name: str, length: int, offset: int = 0) -> bytes:
        """Read from an image."""
        with self.image(name, read_only=True) as image:
            return bytes(image.read(offset, length))

    def left(self) -> set[str]:
        """What is in the pool although it should be empty: images, trash, RADOS objects."""
        trash = {found["name"] for found in self.rbd.RBD().trash_list(self.ioctx)}
        return self.images() | trash | (set(self._objects()) - EMPTY)

    def clear(self) -> None:
        """Remove all objects, so that one test that fails does not fail the others."""
        for name in self._objects():
            self.ioctx.remove_object(name)

    def _objects(self) -> list[str]:
        return [found.key for found in self.ioctx.list_objects() if self._is_there(found.key)]

    def _is_there(self, name: str) -> bool:
        # Some are listed that were removed with a snapshot, until the OSD has trimmed it.
        try:
            self.ioctx.stat(name)
        except self._rados.ObjectNotFound:
            return False
        return True
