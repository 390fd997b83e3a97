"""Structs that threads decode are known to msgspec before: it would end the process otherwise."""

from __future__ import annotations

import importlib
import subprocess
import sys

import msgspec
import pytest

DECODED_BY_THREADS = (
    "csi_driver.base.sealing",
    "csi_driver.base.values",
    "csi_driver.cinderlib.persistence.records",
    "csi_driver.kube.node_objects",
    "csi_driver.node.state",
)

WHAT_MSGSPEC_STILL_ASKS = """
import importlib, sys, msgspec
module = importlib.import_module(sys.argv[1])
asked = []
def note(frame, event, argument):
    if event == "call" and frame.f_code.co_name == "get_class_annotations":
        asked.append(frame.f_locals["obj"].__name__)
for kind in list(vars(module).values()):
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        sys.setprofile(note)
        msgspec.json.Decoder(kind)
        sys.setprofile(None)
print(",".join(asked))
"""


def what_is_asked(module: str) -> str:
    """The structs of a freshly imported module that msgspec has yet to find out about."""
    done = subprocess.run(
        [sys.executable, "-c", WHAT_MSGSPEC_STILL_ASKS, module],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("module", DECODED_BY_THREADS)
def test_msgspec_has_nothing_left_to_find_out(module: str):
    kinds = vars(importlib.import_module(module)).values()
    assert any(isinstance(each, type) and issubclass(each, msgspec.Struct) for each in kinds)
    assert what_is_asked(module) == ""


def test_it_has_where_nobody_made_it():
    """The look itself sees something: these structs are not decoded."""
    assert "StageRequest" in what_is_asked("csi_driver.node.requests").split(",")
