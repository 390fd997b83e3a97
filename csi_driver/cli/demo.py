"""``cinder-csi demo``: a volume's whole life on this machine, shown step by step.

It starts a real driver process with the embedded defaults in a temporary
directory, makes the calls that Kubernetes would make over its socket, and proves
that nothing is left.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import grpc
import typer

from csi_driver.base.errors import CinderCSIError

if TYPE_CHECKING:
    # Loaded when it is used: a process that serves has this module too.
    from rich.console import Console

_AS_USER = frozenset({"create", "controller_publish", "snapshot", "restore", "clone", "expand"})
"""Steps that need no root: all up to the attach to this machine."""

_CLEAN_UP = frozenset({"controller_unpublish", "delete"})

STEPS: tuple[tuple[str, str], ...] = (
    ("create", "CreateVolume"),
    ("controller_publish", "ControllerPublishVolume"),
    ("stage", "NodeStageVolume"),
    ("publish", "NodePublishVolume"),
    ("write", "write data"),
    ("snapshot", "CreateSnapshot"),
    ("restore", "CreateVolume from the snapshot, larger"),
    ("compare_restored", "stage, publish, compare the restored"),
    ("clone", "CreateVolume from the volume"),
    ("compare_clone", "stage, publish, compare the clone"),
    ("expand", "expand"),
    ("stats", "NodeGetVolumeStats"),
    ("unpublish", "NodeUnpublishVolume"),
    ("unstage", "NodeUnstageVolume"),
    ("controller_unpublish", "ControllerUnpublishVolume"),
    ("delete", "DeleteSnapshot, DeleteVolume"),
)
"""Method of :class:`~csi_driver.cli.demo_life.Life`, and how the step is called."""


class StepFailed(CinderCSIError):
    """A step of the demo was answered with an error."""


class Show:
    """Shows each step while it runs and keeps its time for the closing table."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows: list[tuple[str, str, float]] = []

    def step(self, title: str, work: Callable[[], str]) -> None:
        """Run one step and show its outcome."""
        started = time.perf_counter()
        try:
            with self._console.status(title):
                outcome = work()
        except grpc.RpcError as error:
            self._console.print(f"[red]failed[/red]  {title}")
            raise StepFailed(f"{title}: {error.code().name}: {error.details()}") from error
        except BaseException:
            self._console.print(f"[red]failed[/red]  {title}")
            raise
        took = time.perf_counter() - started
        self._rows.append((title, outcome, took))
        self._console.print(f"[green]ok[/green]  {title}: {outcome}", highlight=False)

    def table(self) -> None:
        """Print the closing table."""
        from rich.table import Table

        table = Table("step", "outcome", title="A volume's life")
        table.add_column("seconds", justify="right")
        for title, outcome, took in self._rows:
            table.add_row(title, outcome, f"{took:.3f}")
        table.add_row("in all", "", f"{sum(row[2] for row in self._rows):.3f}")
        self._console.print(table)


def demo(
    directory: Annotated[
        Path | None,
        typer.Option(
            help="Where to make the demo's own temporary directory.",
            show_default="the system's temporary directory",
        ),
    ] = None,
) -> None:
    """Walk a volume through its whole life against a real driver process.

    As root all of it: create, publish, stage (mkfs xfs), write, snapshot, restore larger, clone,
    expand while mounted, delete. Without root everything up to the attach.
    """
    from rich.console import Console

    console = Console()
    try:
        home = Path(tempfile.mkdtemp(prefix="cinder-csi-demo-", dir=directory))
    except OSError as error:
        raise CinderCSIError(f"No temporary directory can be made: {error}") from error
    show = Show(console)
    try:
        _walk(show, home, root=os.geteuid() == 0)
    except BaseException:
        console.print(f"What is left, and the driver's log, are in {home}", highlight=False)
        raise
    shutil.rmtree(home)
    show.table()
    if os.geteuid() != 0:
        console.print(
            "Without root nothing was attached to this machine. As root the demo also attaches"
            " (loop device), makes a filesystem, mounts, writes and compares data, and expands"
            " while mounted: sudo make demo"
        )


def _walk(show: Show, home: Path, *, root: bool) -> None:
    from csi_driver.cli import leftovers
    from csi_driver.cli.demo_life import DemoFailed, Life
    from csi_driver.cli.demo_process import DriverProcess

    with DriverProcess(home) as driver:
        client = None

        def start() -> str:
            nonlocal client
            client = driver.start()
            return f"pid {driver.pid}, ready on its unix socket"

        show.step("start the driver", start)
        assert client is not None
        with client:
            life = Life(client, home)
            try:
                for name, title in STEPS:
                    if root or name in _AS_USER | _CLEAN_UP:
                        show.step(title, getattr(life, name))
            except BaseException:
                life.abandon()
                raise

        def stop() -> str:
            code = driver.stop()
            if code:
                raise DemoFailed(f"The driver ended with exit code {code}")
            return "SIGTERM, drained, exit code 0"

        show.step("stop the driver", stop)

    def nothing_left() -> str:
        left = leftovers.find(home, driver.state_dir)
        found = [f"{kind}: {', '.join(names)}" for kind, names in left.items() if names]
        if found:
            raise DemoFailed(f"Left behind: {'; '.join(found)}")
        return ", ".join(f"0 {kind}" for kind in left)

    show.step("look for what is left", nothing_left)
