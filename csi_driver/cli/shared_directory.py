"""The node ledger of one machine: small files in the shared state directory.

The node's side (:class:`~csi_driver.node.ports.NodeLedger`) and the controller's
(``controller.ports.NodeDirectory``) in one class, for processes that run on one
machine and share ``--state-dir``.  Each fact is one file, replaced atomically and
on disk before the call returns::

    <state-dir>/nodes/<node id>.json               registration
    <state-dir>/confirmations/<volume id>.json     formatting and identity
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TypeVar

import msgspec

from csi_driver.base.directories import WhileUnchanged
from csi_driver.base.errors import StateDirectoryError
from csi_driver.base.files import read_text, remove, write_atomic
from csi_driver.base.values import Confirmation, NodeRegistration
from csi_driver.node.ports import LedgerUnavailable

T = TypeVar("T", Confirmation, NodeRegistration)

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")


class SharedDirectory:
    """The ledger in ``directory``; safe for several threads and processes."""

    def __init__(self, directory: Path) -> None:
        self._nodes = directory / "nodes"
        self._confirmations = directory / "confirmations"
        self._registrations = WhileUnchanged(_read_registrations)

    # -- the node's side ------------------------------------------------------

    def register(self, registration: NodeRegistration) -> None:
        """Store a node's registration.

        :raises LedgerUnavailable: the directory cannot be written.
        """
        _write(_file(self._nodes, registration.node_id), registration)

    def confirm(self, confirmation: Confirmation) -> None:
        """Store what a node proved about a volume.

        :raises LedgerUnavailable: the directory cannot be written.
        """
        _write(_file(self._confirmations, confirmation.volume_id), confirmation)

    def confirmation(self, volume_id: str) -> Confirmation | None:
        """What is confirmed of a volume.

        :raises LedgerUnavailable: it cannot be read, or is damaged.
        """
        return _read(_file(self._confirmations, volume_id), Confirmation)

    # -- the controller's side ------------------------------------------------

    def node(self, node_id: str) -> NodeRegistration | None:
        """The registration of a node.

        :raises LedgerUnavailable: it cannot be read, or is damaged.
        """
        return _read(_file(self._nodes, node_id), NodeRegistration)

    def nodes(self) -> list[NodeRegistration]:
        """All registrations, by file name.

        Read anew when the directory has changed: every create asks.

        :raises LedgerUnavailable: one cannot be read, or is damaged.
        """
        try:
            return list(self._registrations.of(self._nodes))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise LedgerUnavailable(f"{self._nodes} cannot be read: {error}") from error

    def has_word(self, volume_id: str) -> bool:
        """Whether anything is confirmed of a volume.

        :raises LedgerUnavailable: it cannot be read, or is damaged.
        """
        return _read(_file(self._confirmations, volume_id), Confirmation) is not None

    def forget(self, volume_id: str) -> None:
        """Drop the confirmation of a deleted volume.

        :raises LedgerUnavailable: the directory cannot be written.
        """
        try:
            remove(_file(self._confirmations, volume_id))
        except StateDirectoryError as error:
            raise LedgerUnavailable(error.message) from error


def _file(directory: Path, key: str) -> Path:
    """The file of a key; a key that is no plain file name is hashed."""
    plain = key if _PLAIN.fullmatch(key) else "sha256-" + hashlib.sha256(key.encode()).hexdigest()
    return directory / f"{plain}.json"


def _read_registrations(directory: Path) -> list[NodeRegistration]:
    found = (_read(path, NodeRegistration) for path in sorted(directory.glob("*.json")))
    return [registration for registration in found if registration is not None]


def _write(path: Path, value: Confirmation | NodeRegistration) -> None:
    try:
        write_atomic(path, msgspec.json.encode(value), mode=0o640)
    except StateDirectoryError as error:
        raise LedgerUnavailable(error.message) from error


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        text = read_text(path)
        return None if text is None else msgspec.json.decode(text, type=kind)
    except StateDirectoryError as error:
        raise LedgerUnavailable(error.message) from error
    except msgspec.DecodeError as error:
        raise LedgerUnavailable(
            f"{path} is damaged: {error}", advice="Restore it from a backup, or ask for support"
        ) from error
