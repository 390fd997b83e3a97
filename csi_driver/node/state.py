"""The node's own state: one file per staged volume.

Written by stage and publish *before* each step, so that what was begun can be
undone after a crash with every store out of reach; removed last by unstage.
Secrets stay sealed in it: the publish_context is kept as it came.
"""

from __future__ import annotations

import hashlib
import os
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from csi_driver.base import decoding
from csi_driver.base.errors import StateDirectoryError
from csi_driver.base.files import read_text, remove, write_atomic
from csi_driver.base.values import VolumeCapability
from csi_driver.node.errors import NodeStateDamaged


class Step(StrEnum):
    """How far a volume has come on this node; only STAGED may be published."""

    ATTACHING = "attaching"
    CHECKING = "checking"
    FORMATTING = "formatting"
    MOUNTING = "mounting"
    CONFIRMING = "confirming"
    STAGED = "staged"
    UNSTAGING = "unstaging"


class PublishedTarget(msgspec.Struct, frozen=True, kw_only=True):
    """One target path of a staged volume; ``readonly`` as it was decided."""

    target_path: str
    capability: VolumeCapability
    readonly: bool


class StagedVolume(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a volume on this node.

    ``publish_context`` is the sealed map.  ``device`` and what follows is '' until
    it is attached: ``device_number`` is "major:minor", ``loop`` the loop device over
    a backend's file, ``fingerprint`` tells whether the device is still the same one.
    A ``boot_id`` other than the running one means that nothing of this is there.
    """

    volume_id: str
    staging_path: str
    publish_context: dict[str, str]
    capability: VolumeCapability
    readonly: bool
    step: Step
    boot_id: str
    device: str = ""
    device_number: str = ""
    loop: str = ""
    device_info: dict[str, Any] = {}
    fingerprint: str = ""
    fs_type: str = ""
    targets: tuple[PublishedTarget, ...] = ()

    def target(self, target_path: str) -> PublishedTarget | None:
        """The recorded target at ``target_path``."""
        return next((t for t in self.targets if t.target_path == target_path), None)

    def with_target(self, target: PublishedTarget) -> StagedVolume:
        """This volume with ``target`` recorded, replacing one of the same path."""
        kept = self.without_target(target.target_path).targets
        return msgspec.structs.replace(self, targets=(*kept, target))

    def without_target(self, target_path: str) -> StagedVolume:
        """This volume with no target recorded at ``target_path``."""
        kept = tuple(t for t in self.targets if t.target_path != target_path)
        return msgspec.structs.replace(self, targets=kept)


def file_name(volume_id: str) -> str:
    """A name for any volume id: readable in front, unique by the hash behind."""
    digest = hashlib.sha256(volume_id.encode()).hexdigest()[:32]
    return f"{quote(volume_id, safe='')[:100]}-{digest}.json"


class NodeState:
    """The files below ``directory``; the caller sees to one writer per volume."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self, volume_id: str) -> StagedVolume | None:
        """The state of a volume; None when it has none.

        :raises NodeStateDamaged: the file is there and cannot be understood.
        :raises StateDirectoryError: the file cannot be read now.
        """
        path = self._path(volume_id)
        try:
            text = read_text(path)
        except StateDirectoryError as error:
            if isinstance(error.__cause__, UnicodeDecodeError):
                raise NodeStateDamaged(f"The state file {path} is not text") from error
            raise
        if text is None:
            return None
        try:
            staged = msgspec.json.decode(text, type=StagedVolume)
        except msgspec.DecodeError as error:
            raise NodeStateDamaged(f"The state file {path} is damaged: {error}") from error
        if staged.volume_id != volume_id:
            raise NodeStateDamaged(f"The state file {path} is of volume {staged.volume_id}")
        return staged

    def write(self, staged: StagedVolume) -> None:
        """Replace the state of the volume; durable when it returns.

        :raises StateDirectoryError: it cannot be written; the old state is kept.
        """
        write_atomic(self._path(staged.volume_id), msgspec.json.encode(staged))

    def remove(self, volume_id: str) -> None:
        """Forget the volume; nothing happens when it has no state.

        :raises StateDirectoryError: the file cannot be removed.
        """
        remove(self._path(volume_id))

    def set_aside(self, volume_id: str) -> Path:
        """Rename a damaged file out of the way, for a person to look at; its new path.

        :raises StateDirectoryError: it cannot be renamed.
        """
        path = self._path(volume_id)
        aside = path.with_suffix(".damaged")
        try:
            os.replace(path, aside)
        except OSError as error:
            raise StateDirectoryError(f"{path} cannot be renamed: {error}") from error
        return aside

    def _path(self, volume_id: str) -> Path:
        return self._directory / file_name(volume_id)


decoding.prepare(__name__)
