"""Reads the JUnit report of csi-sanity into a value that tests compare."""

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Report:
    """What became of each spec of a run, by its full name."""

    passed: frozenset[str]
    skipped: dict[str, str]
    """name -> why"""
    failed: dict[str, str]
    """name -> what went wrong, in a few lines"""

    def __str__(self) -> str:
        counts = len(self.passed), len(self.failed), len(self.skipped)
        return "{} passed, {} failed, {} skipped".format(*counts)


def read_report(path: Path) -> Report:
    """Parse a report. What Ginkgo calls neither passed, skipped nor pending has failed."""
    passed, skipped, failed = set(), {}, {}
    for case in ElementTree.parse(path).iter("testcase"):
        kind, _, name = case.get("name", "").partition(" ")
        match case.get("status"):
            case "passed" if kind == "[It]":  # the others set the suite up or tear it down
                passed.add(name)
            case "passed":
                pass
            case "skipped" | "pending":
                skipped[name] = _attribute(case, "skipped").removeprefix("skipped - ")
            case _:
                failed[name or kind] = _explanation(case)
    return Report(frozenset(passed), skipped, failed)


def _explanation(case: ElementTree.Element) -> str:
    """The message and the place of a failure; the log of the whole spec would bury them."""
    for kind in ("failure", "error"):
        if (element := case.find(kind)) is not None:
            return "\n".join([_attribute(case, kind), *(element.text or "").splitlines()[:12]])
    return case.get("status", "")


def _attribute(case: ElementTree.Element, kind: str) -> str:
    """The message of the element of that kind, or nothing."""
    element = case.find(kind)
    return "" if element is None else element.get("message", "")
