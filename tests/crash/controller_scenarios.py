"""What is done for each operation of the controller's table, and how its outcome is seen."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from csi_driver.base.faults import WRITE
from csi_driver.controller.operations import OPERATIONS, FaultPoint, Recovery
from tests.crash import requests
from tests.crash.bed import Bed
from tests.crash.requests import Call
from tests.support.messages import from_snapshot, from_volume


@dataclass(frozen=True)
class Scenario:
    """One operation.

    :param prepare: makes what the operation needs; the call to make.
    :param view: what tells whether it was done, from the records.
    :param before: the view when it was not done, or undone.
    :param after: the view when it was done.
    :param driver_fault: the driver call whose failure leads to the step "undone".
    :param readable: whether the volume "data" then holds what somebody wrote.
    """

    prepare: Callable[[Bed], Call]
    view: Callable[[Bed], object]
    before: object
    after: object
    driver_fault: str
    readable: bool = False


def _volumes(bed: Bed) -> int:
    return len(bed.records("volume", phase="available"))


def _snapshots(bed: Bed) -> int:
    return len(bed.records("snapshot", phase="available"))


def _sizes(bed: Bed) -> list[tuple[int, int]]:
    """GiB as recorded and as the file has them."""
    volumes = bed.records("volume")
    files = [bed.state / "volumes" / f"volume-{volume['cinder_id']}" for volume in volumes]
    return [(v["size_gib"], f.stat().st_size >> 30) for v, f in zip(volumes, files, strict=True)]


def _attached(bed: Bed) -> int:
    return len(bed.connections())


def _copy(bed: Bed) -> Call:
    return requests.create("data", from_volume(bed.golden))


def _restore(bed: Bed) -> Call:
    return requests.create("data", from_snapshot(bed.golden_cut))


def _snapshot(bed: Bed) -> Call:
    return requests.snapshot("data", bed.copy_of_golden())


def _used(bed: Bed) -> str:
    """A volume that was staged: the nodes have confirmed something about it."""
    volume_id = bed.copy_of_golden()
    bed.read(volume_id)
    return volume_id


def _delete(bed: Bed) -> Call:
    return requests.delete(_used(bed))


def _delete_snapshot(bed: Bed) -> Call:
    cut = bed.until_ok(_snapshot(bed)).snapshot
    return requests.delete_snapshot(cut.snapshot_id)


def _expand(bed: Bed) -> Call:
    return requests.expand(bed.copy_of_golden(), 2)


def _publish(bed: Bed) -> Call:
    return requests.publish(bed.copy_of_golden())


def _unpublish(bed: Bed) -> Call:
    volume_id = _used(bed)
    bed.publish(volume_id)
    return requests.unpublish(volume_id)


_made = functools.partial(Scenario, view=_volumes, before=0, after=1)

SCENARIOS: dict[str, Scenario] = {
    "create": _made(lambda bed: requests.create("data"), driver_fault="create_volume/after"),
    "restore": _made(_restore, driver_fault="create_volume_from_snapshot/after", readable=True),
    "clone": _made(_copy, driver_fault="create_cloned_volume/after", readable=True),
    "snapshot": Scenario(_snapshot, _snapshots, 0, 1, "create_snapshot/after", readable=True),
    "delete": Scenario(_delete, _volumes, 1, 0, "delete_volume/before"),
    "delete-snapshot": Scenario(
        _delete_snapshot, _snapshots, 1, 0, "delete_snapshot/before", readable=True
    ),
    "extend": Scenario(_expand, _sizes, [(1, 1)], [(2, 2)], "extend_volume/before", readable=True),
    "publish": Scenario(_publish, _attached, 0, 1, "initialize_connection/before", readable=True),
    "unpublish": Scenario(
        _unpublish, _attached, 1, 0, "terminate_connection/before", readable=True
    ),
}


def repaired(point: FaultPoint) -> str:
    """Which view a controller arrives at by itself when the work ended at ``point``.

    Told by the table alone: the last step that was recorded, and what recovers it.
    """
    recorded = None
    for step in OPERATIONS[point.operation]:
        if step == point.step and point.moment == WRITE:
            break
        if not step.after_failure and not step.on_change:
            recorded = step
        if step == point.step:
            recorded = step
            break
    if point.step.after_failure:
        recorded = OPERATIONS[point.operation][0] if point.moment == WRITE else point.step
    if recorded is None or recorded.name == "undone":
        return "before"
    return "after" if recorded.recovery in (Recovery.REDO, Recovery.FINAL) else "before"
