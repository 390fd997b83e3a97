"""What ``cinder-csi records`` does: the export, the import and the check of records.

Called by :mod:`~csi_driver.cli.records`, with the place of the records as a
:class:`~csi_driver.cli.records_homes.Home`.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csi_driver import __version__
from csi_driver.base import sealing
from csi_driver.base.errors import ConfigurationError
from csi_driver.base.sealing import KeyRing
from csi_driver.cinderlib.persistence import checking, export_file, importing, sealed
from csi_driver.cinderlib.persistence.export_file import Export, Header
from csi_driver.cinderlib.persistence.importing import Import
from csi_driver.cinderlib.persistence.reading import RecordReader
from csi_driver.cinderlib.persistence.records import (
    RECORD_TYPES,
    Record,
    VolumeRecord,
)
from csi_driver.cinderlib.persistence.store import StoreCorrupt
from csi_driver.cli.records_counterparts import compare
from csi_driver.cli.records_homes import Home
from csi_driver.config import Settings
from csi_driver.controller import restoring


@dataclass(frozen=True)
class Keys:
    """The key rings at hand; None: that one is not."""

    records: KeyRing | None
    transport: KeyRing | None

    @classmethod
    def below(cls, settings: Settings) -> Keys:
        """The rings that a controller with these settings would use; none is made."""
        return cls(_ring(settings.records_keys), _ring(settings.transport_keys))


@dataclass(frozen=True)
class Found:
    """What a check found.

    :ivar counts: records by kind.
    :ivar problems: a sentence for each.
    :ivar notes: what may be as it should, a sentence for each.
    """

    counts: dict[str, int]
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Imported:
    """What an import did.

    :ivar written: records that were not there yet.
    :ivar left: what was in progress at the time of the backup, and is not gone on with.
    :ivar unformatted: volumes that will not be formatted any more.
    """

    counts: dict[str, int]
    written: int
    left: tuple[str, ...]
    unformatted: tuple[str, ...]


def export(home: Home[Any], settings: Settings, *, while_running: bool) -> tuple[bytes, Found]:
    """All records of a place as a file's content, and what is wrong with them.

    :param while_running: beside a controller, as of one moment.
    :raises StoreLocked: a controller works there, and ``while_running`` is not said.
    :raises ConfigurationError: there are no records, only a part of them, or secrets in clear.
    :raises StoreCorrupt: a record is damaged.
    """
    with nullcontext() if while_running else home.alone():
        made_at = datetime.datetime.now(datetime.UTC)
        with closing(home.reader()) as reader:
            records = [each for kind in RECORD_TYPES for each in reader.list(kind)]
            installation_id = reader.installation_id
            words = home.confirmed(reader, records)
    importing.refuse(importing.marker_among(records))
    records = [
        restoring.confirmed(each, words.get(each.id)) if isinstance(each, VolumeRecord) else each
        for each in records
    ]
    clear = [f"{each.KIND} {each.id}" for each in records if sealed.has_clear_secret(each)]
    if clear:
        raise ConfigurationError(
            f"{len(clear)} records hold secrets in clear, as the {clear[0]}; no file was made",
            advice="Start the controller once: it seals what is older than its keys",
        )
    header = Header(
        cinder_csi_records=export_file.FORMAT,
        program=__version__,
        made_at=f"{made_at:%Y-%m-%dT%H:%M:%SZ}",
        installation_id=installation_id,
        driver=settings.driver_name,
        store=settings.store.value,
        while_running=while_running,
        counts=export_file.counted(records),
        records_keys=dict(sealed.keys_of(records)),
        transport_keys=checking.transport_keys(records),
    )
    found = Found(header.counts, tuple(checking.problems(records)))
    return export_file.compose(header, records), found


def bring(
    home: Home[Any],
    settings: Settings,
    given: Export,
    *,
    moving: bool,
    accept_problems: bool,
) -> Imported:
    """Import a file's records, once all of it is verified.

    :param moving: nothing worked with the volumes since the export.
    :raises ConfigurationError: the records are another driver's, or do not fit together, or
        the keys at hand do not open them.
    :raises StoreLocked: a controller works there.
    :raises RecordExists, RecordConflict: there are other records.
    """
    header = given.header
    if header.driver != settings.driver_name:
        raise ConfigurationError(
            f"The records are those of the driver {header.driver}, not {settings.driver_name}",
            advice=f"Say --driver-name {header.driver}, to this command and to cinder-csi serve",
        )
    if moving and header.while_running:
        raise ConfigurationError(
            "The export was made beside a controller, which may have worked on since",
            advice="Import without --moving, or export anew with the controller stopped",
        )
    problems = check_export(given, Keys.below(settings)).problems
    if problems and not accept_problems:
        raise ConfigurationError(
            f"The records have {len(problems)} problems: {'; '.join(problems[:3])}",
            advice="Nothing was changed. cinder-csi records check shows all. Put the keys that"
            " sealed the records into place, or say --accept-problems",
        )
    pairs = [(each, each if moving else restoring.restored(each)) for each in given.records]
    records = [after for _, after in pairs if after is not None]
    this = Import(sha256=given.sha256, made_at=header.made_at, moving=moving)
    with home.receiving(header.installation_id, this) as store:
        written = importing.write(store, records)
        home.confirm(restoring.confirmations(records))
        importing.finish(store, records)
    return _imported(pairs, written)


def check_export(given: Export, keys: Keys) -> Found:
    """What is wrong with the records of a file that could be read."""
    records = given.records
    problems = [*checking.problems(records), *_seal_problems(records, keys, given.header.driver)]
    return Found(given.header.counts, tuple(problems))


def check_home(home: Home[Any], settings: Settings) -> Found:
    """What is wrong with the records of a place, beside its controller.

    :raises ConfigurationError: there are none.
    """
    damaged: list[str] = []
    records: list[Record] = []
    # Before the records: what is there then has a record already.
    counterparts = home.counterparts()
    with closing(home.reader()) as reader:
        for kind in RECORD_TYPES:
            _sort(reader, kind, records, damaged)
    marker = importing.marker_among(records)
    if marker is not None:
        records.remove(marker)
        damaged.append("An import was not finished: run it again, with the same file and options")
    problems = [*damaged, *checking.problems(records)]
    problems += _seal_problems(records, Keys.below(settings), settings.driver_name)
    counts = export_file.counted(records)
    if counterparts is None:
        return Found(counts, tuple(problems))
    unmatched = compare(counterparts, records, time.time())
    return Found(counts, (*problems, *unmatched.problems), unmatched.notes)


def _sort(
    reader: RecordReader, kind: type[Record], records: list[Record], damaged: list[str]
) -> None:
    for each in reader.each(kind):
        if isinstance(each, StoreCorrupt):
            damaged.append(str(each))
        else:
            records.append(each)


def _seal_problems(records: Sequence[Record], keys: Keys, driver: str) -> list[str]:
    return checking.seal_problems(records, keys.records, keys.transport, driver)


def _imported(pairs: Sequence[tuple[Record, Record | None]], written: int) -> Imported:
    left, unformatted = [], []
    for before, after in pairs:
        operation = getattr(before, "operation", None)
        if operation is not None and getattr(after, "operation", None) is None:
            left.append(f"{before.KIND} {before.id}: {operation.kind}, at step {operation.step}")
        formatting = getattr(after, "formatting", None)
        if isinstance(before, VolumeRecord) and before.formatting != formatting:
            unformatted.append(before.id)
    counts = export_file.counted([after for _, after in pairs if after is not None])
    return Imported(counts, written, tuple(left), tuple(unformatted))


def _ring(path: Path) -> KeyRing | None:
    """The ring of a file, None when there is none; :raises: as :func:`sealing.load`."""
    return sealing.load(path) if path.exists() else None
