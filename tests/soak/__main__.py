"""`make soak`: a hundred thousand operations, and nothing may have grown.

Half of them on the memory store, half on the database, each on a new process.  The driver is the
real one, with the embedded backend; only its tombstones are pruned after seconds (see ``serve``).
Ends with an error when a figure grew, when something is left, or when the time is up.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, fields
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.soak.figures import Sample, growth, look
from tests.soak.load import NODE, Countdown, LoadClient
from tests.support import state
from tests.support.driver_process import DriverProcess
from tests.support.sidecar import Sidecar

ROOT = Path(__file__).resolve().parents[2]
LOOKS = 40


class SoakFailed(Exception):
    """The message says what grew, or what is left."""


def main() -> int:
    """Run the soak by the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--operations", type=int, default=100_000, help="in all; default 100000")
    parser.add_argument("--minutes", type=float, default=15.0, help="at most, in all; default 15")
    parser.add_argument("--clients", type=int, default=8, help="at once; default 8")
    parser.add_argument("--stores", nargs="+", default=["memory", "db"], choices=["memory", "db"])
    chosen = parser.parse_args()
    deadline = time.monotonic() + chosen.minutes * 60
    each = chosen.operations // len(chosen.stores)
    failures = 0
    for store in chosen.stores:
        try:
            soak(store, each, chosen.clients, deadline)
        except SoakFailed as error:
            print(f"{store}: {error}", file=sys.stderr)
            failures += 1
    return 1 if failures else 0


def soak(store: str, operations: int, clients: int, deadline: float) -> None:
    """One process under load.

    :param deadline: by the monotonic clock, in seconds.
    :raises SoakFailed: see there.
    """
    began = time.monotonic()
    with TemporaryDirectory(prefix="soak-") as name:
        process = DriverProcess(
            Path(name),
            store=store,
            node_id=NODE,
            command=(sys.executable, "-m", "tests.soak.serve", "serve"),
            arguments=("--log-level", "WARNING"),
            environment={"PYTHONPATH": str(ROOT)},
        )
        with process:
            samples = load(process, store, operations, clients, deadline)
            refuse_what_is_left(process)
    seconds = time.monotonic() - began
    done = samples[-1].operations
    print(f"{store}: {done} operations in {seconds:.0f} s, {done / seconds:.0f} a second")
    if done < operations:
        raise SoakFailed(f"time is up after {done} of {operations} operations")
    if grown := growth(samples):
        raise SoakFailed("; ".join(grown))


def load(
    process: DriverProcess, store: str, operations: int, clients: int, deadline: float
) -> list[Sample]:
    """Let the clients work, and look at the process meanwhile."""
    left = Countdown(operations)
    samples = []
    _print_row(["operations", *_names()])
    with ThreadPoolExecutor(clients) as pool:
        working = [
            pool.submit(LoadClient(number, process.socket, left).run) for number in range(clients)
        ]
        for turn in range(1, LOOKS + 1):
            in_time = left.wait_until(operations * turn // LOOKS, deadline - time.monotonic())
            samples.append(look(process.pid, process.state_directory, store, left.done))
            _print_row([f"{figure:.4g}" for figure in astuple(samples[-1])])
            if not in_time:
                left.stop()
                break
    for client in working:
        client.result()
    return samples


def refuse_what_is_left(process: DriverProcess) -> None:
    """After all clients deleted what they made.

    :raises SoakFailed: names what is still there.
    """
    with Sidecar(str(process.socket)) as sidecar:
        left = {**sidecar.volumes(), **sidecar.snapshots()}
    files = state.backend_files(process.state_directory)
    locks = state.lock_files(process.state_directory)
    if left or files or locks:
        raise SoakFailed(f"left behind: {left or ''} {files or ''} {locks or ''}")


def _names() -> list[str]:
    return [field.name for field in fields(Sample)][1:]


def _print_row(cells: list[str]) -> None:
    print(" ".join(f"{cell:>13}" for cell in cells), flush=True)


if __name__ == "__main__":
    sys.exit(main())
