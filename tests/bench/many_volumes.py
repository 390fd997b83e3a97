"""What does not grow with the number of volumes, and a restart, which may a little."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from csi_driver.base.values import GIB
from csi_driver.cinderlib.persistence.factory import open_store
from csi_driver.cinderlib.persistence.records import VolumeRecord
from csi_driver.controller import ids
from csi_driver.rpc._generated import csi_pb2 as pb
from tests.bench import calls
from tests.bench.figures import Figure
from tests.bench.processes import Subject, roomy, serving

FEW = 100
MANY = 10_000
PAGE = 100
LISTINGS = 51
WRITERS = 64


def lists_and_restart() -> Iterator[Figure]:
    """A page of ListVolumes among 100 and among 10,000 volumes; a restart with 10,000."""
    with TemporaryDirectory() as name:
        directory = Path(name)
        with serving(directory, backend=roomy(directory)) as subject:
            calls.repeat(calls.create, subject.client, FEW + 1)
            among_few = page_ms(subject)
        fill(directory / "state", MANY - FEW - 1)
        with serving(directory, backend=roomy(directory)) as subject:
            restart = subject.cpu_seconds()
            among_many = page_ms(subject)
    yield Figure(
        name="CPU of a restart with 10,000 records, up to ready",
        setting="all, db",
        value=restart,
        unit="s",
        bound=3.0,
    )
    yield Figure(
        name=f"ListVolumes, a page of {PAGE} among 10,000",
        setting="all, db",
        value=among_many,
        unit="ms",
        bound=10,
        beside=among_few,
        beside_name=f"among {FEW + 1}",
    )
    yield Figure(
        name=f"the same page, how much longer than among {FEW + 1}",
        setting="all, db",
        value=(among_many / among_few - 1) * 100,
        unit="%",
        bound=50,
    )


def fill(state: Path, count: int) -> None:
    """Add volumes as the driver would have made them: a record and a sparse file each."""
    with closing(open_store("db", state)) as store:
        installation = store.installation_id
        pattern = store.list(VolumeRecord, limit=1)[0]
        records = [_volume(pattern, installation, f"filled-{number}") for number in range(count)]
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(store.put, records))
    for record in records:
        with (state / "volumes" / f"volume-{record.cinder_id}").open("xb") as file:
            file.truncate(GIB)


def _volume(pattern: VolumeRecord, installation: str, name: str) -> VolumeRecord:
    return msgspec.structs.replace(
        pattern,
        id=ids.object_id(installation, "volume", 1, name),
        version=0,
        name=name,
        cinder_id=ids.new_cinder_id(),
    )


def page_ms(subject: Subject) -> float:
    """Median time of the first page."""
    request = pb.ListVolumesRequest(max_entries=PAGE)
    calls.milliseconds(lambda: subject.client.controller.ListVolumes(request))
    return statistics.median(
        calls.milliseconds(lambda: subject.client.controller.ListVolumes(request))
        for _ in range(LISTINGS)
    )
