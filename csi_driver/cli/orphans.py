"""``cinder-csi orphans``: what may be left on backends, and what is not finished.

Reads the records of a state directory, or of a cluster, beside a running controller.  An
orphan is removed from the list by the administrator only, who looked for it on the backend;
that changes the store, so it needs the controller stopped (the store's lock sees to it).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from csi_driver.base.errors import ConfigurationError, InvalidRequest
from csi_driver.cli import store_options
from csi_driver.cli.store_options import DriverName, Kubeconfig, StoreUrl, StoreUrlFile
from csi_driver.config import DRIVER_NAME, LogLevel, StoreKind, default_state_dir

if TYPE_CHECKING:
    from csi_driver.cinderlib.persistence.reading import RecordReader
    from csi_driver.controller.pending import Left, Pending, Report

LOG = logging.getLogger("csi_driver.orphans")


class Output(StrEnum):
    """How the lists are shown."""

    TABLE = "table"
    JSON = "json"


def orphans(
    state_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="CINDER_CSI_STATE_DIR",
            help="State directory of the controller.",
            show_default="/var/lib/cinder-csi; ~/.local/state/cinder-csi without root",
        ),
    ] = None,
    store: Annotated[
        StoreKind,
        typer.Option(
            envvar="CINDER_CSI_STORE",
            help="Where the records are: db is the store of the state directory.",
        ),
    ] = StoreKind.DB,
    store_url: StoreUrl = "",
    store_url_file: StoreUrlFile = None,
    kubeconfig: Kubeconfig = None,
    driver_name: DriverName = DRIVER_NAME,
    output: Annotated[
        Output, typer.Option(help="table for people, json for programs.")
    ] = Output.TABLE,
    forget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CINDER_ID",
            help="Take this orphan off the list, because it is gone from its backend. May be"
            " given several times. Stop the controller first. In a cluster delete the"
            " CinderOrphan instead.",
        ),
    ] = None,
) -> None:
    """List what may be left on backends, and operations that are not finished.

    An orphan is a volume or snapshot of which no answer of its driver proves that it is gone. A
    suspect is one that the controller still removes by itself. Works beside a running controller.
    """
    if store is StoreKind.KUBERNETES:
        if forget:
            raise ConfigurationError(
                "--forget works on the store of a state directory",
                advice=f"In a cluster: kubectl delete cinderorphans {' '.join(forget)}",
            )
        _show(_read(_cluster_reader(kubeconfig, driver_name)), output)
        return
    directory = (state_dir or default_state_dir()).absolute()
    url = store_options.store_url(store_url, store_url_file)
    reader = store_options.reader(directory, url)
    if forget:
        reader.close()
        _forget(directory, url, forget)
        return
    _show(_read(reader), output)


def _show(found: Report, output: Output) -> None:
    if output is Output.JSON:
        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        typer.echo("\n".join(_lines(found)))


def _cluster_reader(kubeconfig: Path | None, driver: str) -> RecordReader:
    from csi_driver.cinderlib.persistence.kubernetes.reading import ClusterReader
    from csi_driver.cli.cluster import connection_by
    from csi_driver.kube.api import Api

    return ClusterReader(Api(connection_by(kubeconfig)), driver)


def _read(reader: RecordReader) -> Report:
    from csi_driver.cinderlib.persistence import records
    from csi_driver.controller.pending import report

    try:
        return report(
            reader.list(records.VolumeRecord),
            reader.list(records.SnapshotRecord),
            reader.list(records.ConnectionRecord),
            reader.list(records.OrphanRecord),
            reader.list(records.LateAttemptRecord),
        )
    finally:
        reader.close()


def _forget(directory: Path, url: str, cinder_ids: Sequence[str]) -> None:
    from csi_driver.cinderlib.persistence.factory import open_store
    from csi_driver.cinderlib.persistence.records import OrphanRecord
    from csi_driver.cli import logs

    logs.configure(LogLevel.INFO)
    store = open_store(store_options.asked("db", url), directory)
    try:
        known = {cinder_id: store.get(OrphanRecord, cinder_id) for cinder_id in cinder_ids}
        unknown = [cinder_id for cinder_id, orphan in known.items() if orphan is None]
        if unknown:
            raise InvalidRequest(
                f"No orphan has the Cinder id {', '.join(unknown)}; nothing was changed",
                advice="cinder-csi orphans lists them; suspects are the controller's own affair",
            )
        for orphan in known.values():
            if orphan is not None:
                store.delete(orphan)
                LOG.warning(
                    "Orphan %s (%s %r on backend %s, csi id %s) was forgotten by the administrator",
                    *(orphan.id, orphan.kind, orphan.name, orphan.backend, orphan.csi_id),
                )
    finally:
        store.close()


_LEFT = ("CINDER ID", "KIND", "BACKEND", "NAME", "SINCE", "CSI ID")
_PENDING = ("OPERATION", "KIND", "ID", "NAME", "BACKEND", "STEP", "SINCE", "ATTEMPTS", "PROCESS")


def _lines(found: Report) -> Iterable[str]:
    yield from _table("Orphans", _LEFT, [_left(entry) for entry in found.orphans])
    yield from _table("Suspects", _LEFT, [_left(entry) for entry in found.suspects])
    yield from _table("Pending operations", _PENDING, [_pending(entry) for entry in found.pending])


@dataclass(frozen=True)
class _Row:
    """Cells, and what is too long for a cell: lines below them."""

    cells: tuple[str, ...]
    below: tuple[str, ...]


def _left(entry: Left) -> _Row:
    return _Row(
        (entry.cinder_id, entry.kind, entry.backend, entry.name, entry.since, entry.csi_id),
        (f"why: {entry.why}", f"do:  {entry.what_to_do}"),
    )


def _pending(entry: Pending) -> _Row:
    return _Row(
        (
            *(entry.operation, entry.kind, entry.id, entry.name, entry.backend),
            *(entry.step, entry.since, str(entry.attempts), entry.owner),
        ),
        (f"last error: {entry.last_error or 'none'}", f"do: {entry.what_to_do}"),
    )


def _table(title: str, header: tuple[str, ...], rows: Sequence[_Row]) -> Iterable[str]:
    """A title with the number of rows; columns as wide as their longest cell."""
    yield f"{title}: {len(rows) or 'none'}"
    if not rows:
        return
    widths = [
        max(map(len, column)) for column in zip(header, *(r.cells for r in rows), strict=True)
    ]
    for cells, below in ((header, ()), *((row.cells, row.below) for row in rows)):
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        yield f"  {'  '.join(padded).rstrip()}"
        yield from (f"      {line}" for line in below)
