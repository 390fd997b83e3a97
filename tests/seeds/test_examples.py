"""The examples of the documents that the object layer was built from.

The pages beside this module hold their code, corrected as ``docs/seeds.md`` lists it; the
file backend stands where they have LVM, and the initialization of arrays runs in
``tests/lab`` and ``tests/simulators``.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import csi_driver.cinderlib as cinderlib
from tests.support import examples, leftovers

HERE = Path(__file__).parent

ID = r"[0-9a-f-]{36}"

SAYS = {
    "tracking-in-memory.md": [
        rf"Volume {ID} is currently deleted",
        rf"Volume {ID} is currently available",
        rf"Snapshot {ID} for volume {ID} is currently deleted",
        rf"Connection from \S+ with ip \S+ to volume {ID} is detached",
    ],
    "tracking.md": [
        rf"Volume {ID} is currently in-use",
        rf"Snapshot {ID} for volume {ID} is currently available",
        rf"Connection from \S+ with ip \S+ to volume {ID} is attached",
        rf"Volume {ID} is currently available",
    ],
    "usage.md": [],
    "connections.md": ["True"],
    "backends.md": [
        r"Backend lvm_iscsi is initialized with configuration: "
        r"{'volume_backend_name': 'lvm_iscsi'}",
        rf"Volume {ID} has 1 GB",
        rf"Volume {ID} has 2 GB",
    ],
}
"""What the examples of a page print, line by line."""


@pytest.mark.root
@pytest.mark.parametrize("page", SAYS)
def test_the_examples_of_a_document_run_and_say_what_they_should(page: str, tmp_path: Path) -> None:
    done = examples.run_page(HERE / page, tmp_path)
    left = leftovers.release(tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(SAYS[page]), done.stdout
    for line, pattern in zip(lines, SAYS[page], strict=True):
        assert re.fullmatch(pattern, line), line
    assert left == []


def test_every_page_is_run_and_every_document_is_listed() -> None:
    assert {page.name for page in HERE.glob("*.md")} == set(SAYS)
    listed = (examples.ROOT / "docs" / "seeds.md").read_text()
    for page in SAYS:
        assert f"tests/seeds/{page}" in listed


def test_what_is_not_run_here_says_where_it_is() -> None:
    for page in SAYS:
        for block in examples.blocks_of((HERE / page).read_text()):
            if block.not_run:
                (where,) = re.findall(r"tests/\w+", block.not_run)
                assert (examples.ROOT / where).is_dir()


def test_a_backend_is_made_as_the_document_s_prototype_says() -> None:
    signature = inspect.signature(cinderlib.Backend.__new__)

    named, free = list(signature.parameters.values())[1:]
    assert named.name == "volume_backend_name"
    assert (free.name, free.kind) == ("driver_cfg", inspect.Parameter.VAR_KEYWORD)
