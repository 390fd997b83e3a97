"""Cinder's Ceph RBD driver without what hangs, crashes or leaks.

Named in :mod:`csi_driver.cinderlib.runtime.quirks`, which puts :class:`RBDCorrections`
above the methods of ``cinder.volume.drivers.rbd.RBDDriver``.  ``docs/ceph.md`` tells an
administrator what is different.

**Deletion.**  An image with dependent clones cannot be removed.  Cinder renames it to
``NAME.deleted`` when the clones were made from the volume itself, flattens them when they
were made from a snapshot, and puts it into the trash when that does not help; most of what
it hides so is never removed.  Here an image with dependents is always renamed, and whoever
removes the last dependent removes it too, up the whole chain.  A deletion that was
interrupted is finished by its repetition: OK means that nothing of the volume is left.

**Handles.**  An image that is still open when its client is shut down blocks, for ever,
the thread that collects it as garbage; a call with a client that was shut down ends the
process.  Cinder does one or the other when something fails after an image was made.
Here nothing is undone inside a creation: the callers delete what a failed one left.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cinder import exception
from cinder.volume.drivers.rbd import RADOSClient, RBDDriver, RBDVolumeProxy
from oslo_config import cfg

from csi_driver.base.masking import SECRETS
from csi_driver.base.values import GIB
from csi_driver.cinderlib.locks import ObjectLocks

LOG = logging.getLogger(__name__)

DELETED = ".deleted"
"""End of the name of an image that is deleted for its users and needed by clones."""

CLONE_SNAP = ".clone_snap"
"""End of the name of the snapshot that a clone of a volume is made from: ``CLONE.clone_snap``."""

_KEY = re.compile(r"^\s*key\s*=\s*(\S+)", re.MULTILINE)

# By the name of an image without ``.deleted``, in every pool (names hold a UUID): held while
# it is decided whether the image is needed, and while it is renamed or removed.  One at a time.
_images = ObjectLocks()


class RBDCorrections(RBDDriver):  # type: ignore[misc]
    """Methods in place of the driver's own; also for ``RBDISCSIDriver``, which inherits those."""

    # -- set-up ------------------------------------------------------------------

    def _start_periodic_tasks(self) -> None:
        """Start none: the one there is purges a trash that nothing is put into here.

        Its thread would also keep the process from ending.
        """
        if self.configuration.enable_deferred_deletion:
            LOG.warning(
                "Backend %r: enable_deferred_deletion has no effect: volumes are removed at once",
                self._backend_name,
            )

    def _set_keyring_attributes(self) -> None:
        super()._set_keyring_attributes()
        # The driver logs its connection info, which holds the keyring.
        SECRETS.learn(*_KEY.findall(self.keyring_data or ""), keep=True)

    # -- creation ----------------------------------------------------------------

    def create_volume(self, volume: Any) -> Any:
        """Make an image.

        :raises cinder.exception.Duplicate: there is one of its name.
        """
        if volume.encryption_key_id:
            return super().create_volume(volume)
        with self._made(volume.name), RADOSClient(self) as client:
            self.RBDProxy().create(
                client.ioctx,
                volume.name,
                volume.size * GIB,
                self._object_order(),
                old_format=False,
                features=client.features,
            )
        return self._setup_volume(volume)

    def create_cloned_volume(self, volume: Any, src_vref: Any) -> Any:
        """Make an image from another, by a snapshot of it that only the clone uses.

        Beyond ``rbd_max_clone_depth`` the clone is made independent of the other; with 0
        it is a full copy.

        :raises cinder.exception.Duplicate: there is an image of its name.
        """
        if self.configuration.rbd_max_clone_depth <= 0:
            with self._made(volume.name):
                super().create_cloned_volume(volume, src_vref)
        else:
            self._clone_by_snapshot(volume, src_vref.name)
            if volume.size > src_vref.size:
                self._resize(volume)
        return self._setup_volume(volume)

    def _clone_by_snapshot(self, volume: Any, source: str) -> None:
        snapshot = volume.name + CLONE_SNAP
        with (
            self._made(volume.name),
            RADOSClient(self) as client,
            self._image(client, source) as image,
        ):
            image.create_snap(snapshot)
            image.protect_snap(snapshot)
            self.RBDProxy().clone(
                client.ioctx,
                source,
                snapshot,
                client.ioctx,
                volume.name,
                features=client.features,
            )
            depth = self._get_clone_depth(client, source)
            if volume.use_quota and depth >= self.configuration.rbd_max_clone_depth:
                with self._image(client, volume.name) as clone:
                    clone.flatten()
                _drop_snapshot(self.rbd, image, snapshot)

    def _clone(self, volume: Any, src_pool: str, src_image: str, src_snap: str) -> Any:
        with (
            self._made(volume.name),
            RADOSClient(self, src_pool) as source,
            RADOSClient(self) as client,
        ):
            unit = self._get_stripe_unit(source.ioctx, src_image)
            self.RBDProxy().clone(
                source.ioctx,
                src_image,
                src_snap,
                client.ioctx,
                volume.name,
                features=source.features,
                order=unit.bit_length() - 1,
            )
        return self._setup_volume(volume) or {}

    def create_snapshot(self, snapshot: Any) -> None:
        """Make a snapshot.

        :raises cinder.exception.Duplicate: the image has one of its name.
        """
        with self._made(f"{snapshot.volume_name}@{snapshot.name}"):
            super().create_snapshot(snapshot)

    @contextmanager
    def _made(self, name: str) -> Iterator[None]:
        try:
            yield
        except self.rbd.ImageExists as error:
            raise exception.Duplicate(f"{name} exists in pool {self._pool}") from error

    def _object_order(self) -> int:
        megabytes: int = self.configuration.rbd_store_chunk_size
        return (megabytes << 20).bit_length() - 1

    # -- size --------------------------------------------------------------------

    def extend_volume(self, volume: Any, new_size: int) -> None:
        """Make an image larger; one that is large enough stays as it is.

        :raises cinder.exception.VolumeNotFound: there is no such image.
        """
        try:
            self._resize(volume, size=int(new_size) * GIB)
        except self.rbd.ImageNotFound as error:
            raise exception.VolumeNotFound(volume_id=volume.id) from error

    def _resize(self, volume: Any, **kwargs: Any) -> None:
        size = kwargs.get("size") or volume.size * GIB
        with RBDVolumeProxy(self, volume.name) as image:
            # Never smaller: an extension whose answer was lost may have made it larger.
            if image.size() < size:
                image.resize(size)

    # -- deletion ----------------------------------------------------------------

    def _delete_volume(self, volume: Any, client: Any) -> None:
        name = volume.name
        with _images.exclusive(name):
            parent = self._remove_or_hide(client, name)
        if parent is None:
            # Removed before, or never made: whose clone it was can be seen nowhere.
            for hidden in self.RBDProxy().list(client.ioctx):
                if hidden.endswith(DELETED):
                    self._release(client, hidden, None)
        elif parent:
            self._release(client, parent, name + CLONE_SNAP)
        source = self._source(volume)
        if source and source != parent:
            # A clone that was not finished, or made independent: its snapshot may be there.
            self._release(client, source, name + CLONE_SNAP)

    def _remove_or_hide(self, client: Any, name: str) -> str | None:
        """Remove an image, or hide it when clones need it.

        :returns: the image that it was a clone of and that may be free now; '' for none;
            None if there is no such image.
        :raises cinder.exception.VolumeIsBusy: it has snapshots of its users, or is open.
        """
        try:
            with self._image(client, name) as image:
                self._refuse_snapshots(name, image)
                _drop_unused_snapshots(self.rbd, image)
                parent = self._parent(image)
                needed = _is_needed(self.rbd, image)
        except self.rbd.ImageNotFound:
            # A creation or removal that was killed leaves an entry which cannot be opened.
            self._remove(client, name)
            return None
        if needed:
            self.RBDProxy().rename(client.ioctx, name, name + DELETED)
            return ""
        self._remove(client, name)
        return parent

    def _release(self, client: Any, name: str, snapshot: str | None) -> None:
        """Let go of an image that had a clone; remove it if it is hidden and nobody needs it.

        :param name: of the image, which may be hidden since its name was read.
        :param snapshot: the one that the clone was made from; None: every unused one.
        """
        base = name.removesuffix(DELETED)
        parent = ""
        with _images.exclusive(base):
            for present in dict.fromkeys((name, base + DELETED)):
                try:
                    parent = self._let_go(client, present, snapshot)
                except self.rbd.ImageNotFound:
                    continue
                break
        if parent:
            self._release(client, parent, base + CLONE_SNAP)

    def _let_go(self, client: Any, name: str, snapshot: str | None) -> str:
        """As :meth:`_release`, of an image by its present name; returns what it was a clone of."""
        hidden = name.endswith(DELETED)
        with self._image(client, name) as image:
            _drop_unused_snapshots(self.rbd, image, None if hidden else snapshot)
            parent = self._parent(image)
            needed = not hidden or _is_needed(self.rbd, image)
        if needed:
            return ""
        self._remove(client, name)
        return parent

    def _refuse_snapshots(self, name: str, image: Any) -> None:
        found = [one for one in _visible(self.rbd, image) if not one.endswith(CLONE_SNAP)]
        if found:
            raise exception.VolumeIsBusy(f"Image {name} has snapshots: {', '.join(found)}")

    def _remove(self, client: Any, name: str) -> None:
        try:
            self.RBDProxy().remove(client.ioctx, name)
        except self.rbd.ImageNotFound:
            return
        except self.rbd.ImageHasSnapshots as error:
            raise exception.VolumeIsBusy(f"Image {name} has snapshots") from error
        except self.rbd.ImageBusy as error:
            users = self._watchers(client, name)
            raise exception.VolumeIsBusy(f"Image {name} is open by {users}") from error

    def _watchers(self, client: Any, name: str) -> str:
        try:
            with self._image(client, name, read_only=True) as image:
                found = sorted({watcher["addr"] for watcher in image.watchers_list()})
        except self.rbd.Error:
            found = []
        return ", ".join(found) or "a client that has just gone"

    def _parent(self, image: Any) -> str:
        """The image of this pool that this one is a clone of, '' if there is none."""
        try:
            pool, parent, _snapshot = image.parent_info()
        except self.rbd.ImageNotFound:
            return ""
        return str(parent) if pool == self._pool else ""

    def _source(self, volume: Any) -> str:
        """The name of the image that a volume is recorded as a clone of, '' if of none."""
        if not volume.source_volid:
            return ""
        return str(cfg.CONF.volume_name_template % volume.source_volid)

    def delete_snapshot(self, snapshot: Any) -> None:
        """Delete a snapshot, at once even where its clones (v1) are made independent first.

        :raises cinder.exception.SnapshotIsBusy: clones depend on it and stay dependent, for
            they have snapshots of their own.
        """
        image_name, name = snapshot.volume_name, snapshot.name
        try:
            with RADOSClient(self) as client, self._image(client, image_name) as image:
                try:
                    _drop_snapshot(self.rbd, image, name)
                except self.rbd.ImageBusy:
                    self._flatten_children(client.ioctx, image_name, name)
                    _drop_snapshot(self.rbd, image, name)
        except self.rbd.ImageNotFound:
            LOG.debug("Snapshot %s was deleted before", name)
        except self.rbd.ImageBusy as error:
            raise exception.SnapshotIsBusy(snapshot_name=name) from error

    # -- what the ``ceph`` and ``rbd`` commands told, without a time limit ----------

    def _get_mon_addrs(self) -> tuple[list[str], list[str]]:
        with RADOSClient(self) as client:
            command = json.dumps({"prefix": "mon dump", "format": "json"})
            code, answer, message = client.cluster.mon_command(command, b"")
        if code:
            raise exception.VolumeBackendAPIException(data=f"mon dump failed: {message}")
        # "ADDRESS:PORT/NONCE"; IPv6 addresses stand in brackets.
        addresses = [monitor["addr"].rpartition("/")[0] for monitor in json.loads(answer)["mons"]]
        pairs = [address.rpartition(":") for address in addresses]
        return [host.strip("[]") for host, _, _ in pairs], [port for _, _, port in pairs]

    def _get_image_status(self, image_name: str) -> Mapping[str, Any]:
        with RBDVolumeProxy(self, image_name, read_only=True) as image:
            return {"watchers": list(image.watchers_list())}

    # -- helpers -----------------------------------------------------------------

    @property
    def _pool(self) -> str:
        return str(self.configuration.rbd_pool)

    @contextmanager
    def _image(self, client: Any, name: str, *, read_only: bool = False) -> Iterator[Any]:
        """An open image, which is closed before its client is shut down, come what may."""
        image = self.rbd.Image(client.ioctx, name, read_only=read_only)
        try:
            yield image
        finally:
            image.close()


def _visible(rbd: Any, image: Any) -> list[str]:
    """The snapshots of an image without those of the trash, which go with their clones."""
    trash = rbd.RBD_SNAP_NAMESPACE_TYPE_TRASH
    return [str(found["name"]) for found in image.list_snaps() if found["namespace"] != trash]


def _is_needed(rbd: Any, image: Any) -> bool:
    """Whether clones depend on an image; one whose clone goes right now is let go by that."""
    return bool(_visible(rbd, image)) or any(image.list_children2())


def _drop_unused_snapshots(rbd: Any, image: Any, only: str | None = None) -> None:
    """Remove the snapshots of clones that are not there any more.

    :param only: look at this one alone: others may be of clones that are being made.
    """
    for name in _visible(rbd, image):
        if name.endswith(CLONE_SNAP) and only in (None, name):
            image.set_snap(name)
            used = any(image.list_children2())
            image.set_snap(None)
            if not used:
                _drop_snapshot(rbd, image, name)


def _drop_snapshot(rbd: Any, image: Any, name: str) -> None:
    try:
        image.unprotect_snap(name)
    except rbd.InvalidArgument:
        LOG.debug("Snapshot %s was not protected", name)
    image.remove_snap(name)
