"""No record is written past the tables of operations: else the matrix would not come by it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import csi_driver
from csi_driver.controller import operations as controller
from csi_driver.node import operations as node

PACKAGE = Path(csi_driver.__file__).parent

NODE_WRITES = {("state", "write"), ("state", "remove"), ("state", "set_aside")} | {
    ("ledger", "confirm")
}
STORE_WRITES = {("store", "put"), ("store", "delete"), ("store", "replace")}

REPEATED = {
    "context.py": "writes by the table, notes errors, and takes over what nodes confirm anyway",
    "exports.py": "exports again at every start",
    "late.py": "writes by the table; what is not recorded is expected, or looked for, again",
    "names.py": "buries within the table's step; prunes what is looked for again",
    "orphans.py": "writes by the table, once",
}
"""Modules of the controller that may write to the store themselves, and why."""


def calls(file: Path) -> Iterator[tuple[tuple[str, str], int]]:
    """:func:`calls_in` of a file."""
    return calls_in(ast.parse(file.read_text()))


def calls_in(tree: ast.AST) -> Iterator[tuple[tuple[str, str], int]]:
    """Every call ``….x.y(…)`` or ``x.y(…)`` in it: the names x and y, and the line."""
    for found in ast.walk(tree):
        if isinstance(found, ast.Call) and isinstance(found.func, ast.Attribute):
            owner = found.func.value
            name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
            yield (name, found.func.attr), found.lineno


def writes(room: str, kinds: set[tuple[str, str]]) -> dict[str, list[int]]:
    """Module -> the lines in which it writes."""
    found: dict[str, list[int]] = {}
    for file in sorted((PACKAGE / room).glob("*.py")):
        for call, line in calls(file):
            if call in kinds:
                found.setdefault(file.name, []).append(line)
    return found


def test_the_node_writes_only_through_its_progress():
    assert writes("node", NODE_WRITES) == {}


def test_the_controller_writes_only_through_its_context():
    assert set(writes("controller", STORE_WRITES)) == set(REPEATED)


@pytest.mark.parametrize("module", ["late.py", "orphans.py"])
def test_every_write_past_the_context_has_its_two_fault_points(module):
    tree = ast.parse((PACKAGE / "controller" / module).read_text())
    writers = []
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            called = [call for call, _ in calls_in(function)]
            if STORE_WRITES.intersection(called):
                writers.append(function.name)
                assert called.count(("faults", "reach")) == 2, function.name
    assert writers


@pytest.mark.parametrize("points", [controller.fault_points(), node.fault_points()])
def test_every_point_has_a_name_of_its_own(points):
    assert len({str(point) for point in points}) == len(points)


def test_controller_and_node_have_no_point_in_common():
    """They may run in one process."""
    names = [{str(p) for p in table.fault_points()} for table in (controller, node)]
    assert not set.intersection(*names)
