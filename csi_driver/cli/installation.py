"""The installation: proof that a record store belongs to this state directory.

The installation id is kept in the store and beside it.  A store that is new
beside a state directory that already served is a lost store: every id in the
cluster would be unknown, and ControllerUnpublish would answer OK for attachments
that exist.  So it is refused.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from csi_driver.base.errors import ConfigurationError
from csi_driver.base.files import read_text, write_atomic, write_new
from csi_driver.cinderlib.persistence.store import RecordStore


class Installation(msgspec.Struct, frozen=True, kw_only=True):
    """What the state directory remembers of its store."""

    installation_id: str
    store: str


def prove(store: RecordStore, kind: str, state_dir: Path) -> None:
    """Refuse a store that is not the one that this state directory was used with.

    A memory store is new at every start; it is refused only beside a directory
    that belongs to a lasting store, or beside volumes that a node still has staged.

    :raises ConfigurationError: says what is missing and what to do.
    """
    path = state_dir / "installation.json"
    known = _read(path)
    mine = Installation(installation_id=store.installation_id, store=kind)
    if known is not None and known.store != kind:
        raise ConfigurationError(
            f"{state_dir} was used with --store {known.store}, not {kind}",
            advice="Use that store (postgresql is db with a --store-url), or another --state-dir",
        )
    if kind == "memory":
        _refuse_staged(state_dir)
        write_atomic(path, msgspec.json.encode(mine))
        return
    if known is None:
        write_new(path, msgspec.json.encode(mine))
        return
    if known != mine:
        state = "is empty and new" if store.fresh else "belongs to another installation"
        raise ConfigurationError(
            f"The record store {state}, but {state_dir} belongs to installation"
            f" {known.installation_id}",
            advice="Restore the store from a backup, or use another --state-dir",
        )


def require_room(state_dir: Path, installation_id: str, kind: str) -> None:
    """Refuse to bring records into the state directory of another installation or store.

    :raises ConfigurationError: it was used with one.
    """
    known = _read(state_dir / "installation.json")
    mine = Installation(installation_id=installation_id, store=kind)
    if known is not None and known != mine:
        raise ConfigurationError(
            f"{state_dir} belongs to installation {known.installation_id} with --store"
            f" {known.store}; the records are of {installation_id}, for --store {kind}",
            advice="Name another --state-dir, with the keys of these records in it",
        )


def require_of(state_dir: Path, installation_id: str, kind: str) -> None:
    """Refuse a state directory whose nodes know nothing of these records.

    What they proved is in it: without that a formatted volume counts as never formatted.

    :raises ConfigurationError: it is that of another installation or store, or of none.
    """
    known = _read(state_dir / "installation.json")
    if known != Installation(installation_id=installation_id, store=kind):
        raise ConfigurationError(
            f"{state_dir} is not the state directory of these records, of installation"
            f" {installation_id}: what nodes know of published volumes is not there",
            advice="Name the one of the controller with --state-dir",
        )


def recorded_store(state_dir: Path) -> str | None:
    """The kind of store that a state directory was used with last; None: it never was.

    :raises ConfigurationError: what it remembers is damaged.
    """
    known = _read(state_dir / "installation.json")
    return None if known is None else known.store


def _read(path: Path) -> Installation | None:
    text = read_text(path)
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=Installation)
    except msgspec.DecodeError as error:
        raise ConfigurationError(
            f"{path} is damaged: {error}", advice="Restore it from a backup"
        ) from error


def _refuse_staged(state_dir: Path) -> None:
    staged = sorted((state_dir / "node").glob("**/*.json"))
    if staged:
        raise ConfigurationError(
            f"{len(staged)} volumes are still staged below {state_dir / 'node'}, and a memory"
            " store knows none of them",
            advice="Unstage them, or use another --state-dir",
        )
