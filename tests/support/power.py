"""The state directory of a driver as a loss of power leaves it, at any moment of a recorded run.

Used by the power loss tests.  What counts as kept is the worst that a disk may do: of the record
store everything up to a flush and some of what was written after it, torn in the middle; of the
backend, which is another machine, everything that it was told until then and even what it was
being told.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csi_driver.cinderlib.persistence.factory import database_path
from csi_driver.drivers.directory_mark import MARK
from csi_driver.drivers.volume_directory import OWNER_XATTR
from tests.support import state
from tests.support.tracing import Syscall

Files = Mapping[str, bytes]
"""Contents by file name."""

FLUSHES = ("fsync", "fdatasync")

NOTHING: Mapping[str, str] = {}

_MAKING = dict.fromkeys(("create", "clone", "restore", "snapshot"), "link")
_REMOVING = dict.fromkeys(("delete", "delete-snapshot"), "unlink")
_DONE_BY = {**_MAKING, **_REMOVING, "extend": "ftruncate"}
"""The call by which the embedded backend does what an operation asks of it."""


@dataclass(frozen=True)
class Moment:
    """A loss of power: ``flushes`` had ended, the next had not.

    ``place`` is in the order of the trace, ``time`` in seconds since the epoch.
    """

    flushes: int
    place: float
    time: float


class Recording:
    """A run of the driver on SQLite records and on the embedded backend.

    :param directory: the state directory, as it was left in the end.
    :param before: the files of the record store when the trace began.
    :param calls: the trace.
    """

    def __init__(self, directory: Path, before: Files, calls: Sequence[Syscall]) -> None:
        self.directory = directory
        self._before = before
        records, volumes = database_path(directory).parent, directory / "volumes"
        self._stored = [call for call in calls if call.path.parent == records]
        self._backend = [call for call in calls if call.path.parent == volumes]
        self._flushes = [call for call in self._stored if call.name in FLUSHES]

    def moments(self) -> list[Moment]:
        """A moment after each flush, the last one before the next is known to have ended."""
        ends = [(call.ended, call.time) for call in self._flushes]
        after = [*ends[1:], (float("inf"), float("inf"))]
        return [Moment(number, *end) for number, end in enumerate(after, start=1)]

    def flushed_before(self, place: float) -> int:
        """How many flushes had ended at a place of the trace."""
        return sum(call.ended < place for call in self._flushes)

    def flushed_at(self, time: float) -> int:
        """How many flushes had ended at a time, in seconds since the epoch."""
        return sum(call.time <= time for call in self._flushes)

    def made(self) -> list[tuple[str, int]]:
        """The names of what was made on the backend, and where in the trace that began."""
        return [
            (Path(call.texts[1].decode()).name, call.began)
            for call in self._backend
            if call.name == "link"
        ]

    # -- the record store ---------------------------------------------------------

    def files(self, flushes: int, tail: random.Random | None = None) -> Files:
        """The record store's files after so many flushes.

        :param tail: chooses how much of what was written after the last of them is there
            too, to the byte; None: nothing.
        """
        files = {name: bytearray(content) for name, content in self._before.items()}
        begun = self._flushes[flushes - 1] if flushes else None
        first = self._stored.index(begun) + 1 if begun else 0
        for call in self._stored[:first]:
            _apply(files, call)
        if tail is not None:
            unflushed = []
            for call in self._stored[first:]:
                if call.name in FLUSHES:
                    break
                unflushed.append(call)
            whole = tail.randint(0, len(unflushed))
            for call in unflushed[:whole]:
                _apply(files, call)
            if whole < len(unflushed) and unflushed[whole].name == "pwrite64":
                _apply(files, unflushed[whole], tail.randint(0, unflushed[whole].numbers[0]))
        return {name: bytes(content) for name, content in files.items()}

    # -- the backend --------------------------------------------------------------

    def on_backend(self, moment: Moment, finishing: Mapping[str, str] = NOTHING) -> dict[str, int]:
        """What is on the backend: sizes in bytes by name.

        :param finishing: operations by object that the backend had been asked for and ends after
            the moment.
        """
        sizes: dict[str, int] = {}
        for call in self._backend:
            source = call.path.name
            name = Path(call.texts[-1].decode()).name
            hidden = source.startswith(".")
            wanted = _DONE_BY.get(finishing.get(name, ""))
            # Sizes of hidden files show only when these get their names.
            known = hidden and call.name == "ftruncate"
            if call.began >= moment.place and call.name != wanted and not known:
                continue
            if call.name == "ftruncate":
                sizes[source] = call.numbers[0]
            elif call.name == "link":
                sizes[name] = sizes[source]
            elif call.name == "unlink":
                sizes.pop(source, None)
        return {name: size for name, size in sizes.items() if not name.startswith(".")}

    # -- both ---------------------------------------------------------------------

    def restore(self, directory: Path, files: Files, backend: Mapping[str, int]) -> None:
        """Make ``directory`` the state directory with these records and this backend."""
        shutil.copytree(self.directory, directory, ignore=_records_and_volumes(self.directory))
        lay_out(directory, files)
        volumes = directory / "volumes"
        volumes.mkdir()
        # On disk before the first file is made, and never removed.
        shutil.copy(self.directory / "volumes" / MARK, volumes / MARK, follow_symlinks=False)
        for name, size in backend.items():
            path = volumes / name
            path.touch()
            os.truncate(path, size)
            if name.startswith("volume-"):
                with contextlib.suppress(OSError):  # a filesystem without them
                    os.setxattr(path, OWNER_XATTR, name.removeprefix("volume-").encode())
            else:
                path.chmod(0o400)


def record_files(directory: Path) -> Files:
    """The files of the record store that survive a loss of power, while nobody writes."""
    store = database_path(directory)
    return {
        path.name: path.read_bytes()
        for path in (store, store.with_name(f"{store.name}-wal"))
        if path.exists()
    }


def lay_out(directory: Path, files: Files) -> None:
    """Write the files of a record store below a state directory."""
    records = database_path(directory).parent
    records.mkdir(parents=True)
    for name, content in files.items():
        (records / name).write_bytes(content)


def unfinished(directory: Path) -> dict[str, str]:
    """The operations that are recorded as begun, by the name of their object on the backend."""
    return {
        f"{record['kind']}-{record['cinder_id']}": record["operation"]["kind"]
        for record in _with_kind(directory)
        if record.get("operation")
    }


def recorded(directory: Path) -> set[str]:
    """Names of everything on the backend that some record knows."""
    return {
        f"{record['kind']}-{cinder_id}"
        for record in _with_kind(directory)
        for cinder_id in (record["cinder_id"], *record["suspects"])
    }


def _with_kind(directory: Path) -> list[dict[str, Any]]:
    return [
        {**record, "kind": kind}
        for kind in ("volume", "snapshot")
        for record in state.records(directory, kind)
    ]


def _apply(files: dict[str, bytearray], call: Syscall, length: int | None = None) -> None:
    """Do to the contents what a call did, or only its first ``length`` bytes."""
    content = files.setdefault(call.path.name, bytearray())
    if call.name == "pwrite64":
        data = call.texts[1][:length]
        offset = call.numbers[1]
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data
    elif call.name == "ftruncate":
        size = call.numbers[0]
        del content[size:]
        content.extend(bytes(size - len(content)))


def _records_and_volumes(directory: Path) -> Any:
    def ignore(parent: str, _names: list[str]) -> list[str]:
        return ["records", "volumes"] if Path(parent) == directory else []

    return ignore
