"""``make bench``: measures the driver on this machine and shows every figure with its bound.

Against real processes with their defaults, as root, in five minutes or so.  With
``--write`` the table goes to ``docs/performance.md``, together with the machine that it
comes from.  The exit code is 0 whatever was measured: a busy machine is no defect.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench import (
    at_start,
    figures,
    kubernetes,
    machine,
    many_volumes,
    node,
    slow_backend,
    throughput,
)
from tests.bench.figures import Figure, NotMeasured

PAGE = Path(__file__).resolve().parents[2] / "docs" / "performance.md"
BEGIN, END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"

MEASURES: dict[str, Callable[[], Iterator[Figure]]] = {
    "start": at_start.first_volume,
    "memory": at_start.memory_with_volumes,
    "cpu": throughput.cpu_per_call,
    "rate": throughput.pairs_per_second,
    "slow": slow_backend.creates_at_once,
    "identity": slow_backend.identity_beside_creates,
    "lists": many_volumes.lists_and_restart,
    "node": node.stages_and_memory,
    "kubernetes": kubernetes.ten_thousand,
}


def main() -> None:
    """Measure, show, and write if asked."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--write", action="store_true", help="put the table into the documents")
    parser.add_argument("--only", action="append", choices=MEASURES, help="measure only this")
    given = parser.parse_args()
    if given.write and given.only:
        parser.error("--write needs the whole table, --only measures a part of it")
    if os.geteuid() != 0:
        sys.exit("make bench: mounting needs root; start it with sudo")
    with TemporaryDirectory() as directory:
        described = machine.describe(Path(directory))
    print(*described.lines(), sep="\n", flush=True)
    measured, complete = [], True
    meanwhile = machine.Meanwhile()
    for name in given.only or MEASURES:
        meanwhile.look()
        try:
            for figure in MEASURES[name]():
                print(figures.line(figure), flush=True)
                measured.append(figure)
        except NotMeasured as error:
            print(f"not measured: {name}: {error}", flush=True)
            complete = False
    meanwhile.look()
    print(meanwhile.line())
    missed = sum(not figure.passed for figure in measured)
    print(f"{len(measured)} figures, {missed} of them beyond their bound")
    if given.write and not complete:
        sys.exit("make bench: a part was not measured, so the document keeps its table")
    if given.write:
        _write([*described.lines(), meanwhile.line()], measured)


def _write(machine_lines: Sequence[str], measured: Sequence[Figure]) -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    facts = [f"- {line}" for line in machine_lines]
    facts.append(f"- measured on {datetime.datetime.now(datetime.UTC):%Y-%m-%d}")
    content = "\n".join([*facts, "", figures.table(measured), ""])
    PAGE.write_text(f"{before}{BEGIN}\n{content}\n{END}{after}")


if __name__ == "__main__":
    main()
