"""Runs the Python examples of a Markdown page, so that documentation cannot rot.

All blocks of a page fenced as ``python`` run in order, in one fresh interpreter and one
namespace, as a reader would type them.  A block that begins with ``>>>`` is a session:
what it prints must be what the page shows (``...`` stands for anything).  Two conventions
keep the pages readable:

- ``/var/lib/volumes`` in a block is a directory of the test's own;
- a block after the line ``<!-- not run: REASON -->`` is only compiled.

As a program: ``python -m tests.support.examples PAGE DIRECTORY``.
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

DIRECTORY = "/var/lib/volumes"

_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

_NOT_RUN = re.compile(r"<!-- not run: (.+) -->")


@dataclass(frozen=True)
class Block:
    """One example: its text, its first line in the page, and why it is not run ('' if it is)."""

    text: str
    line: int
    not_run: str = ""

    @property
    def session(self) -> bool:
        """Whether it is typed into the interpreter, and shows what that answers."""
        return self.text.lstrip().startswith(">>>")


def blocks_of(page: str) -> Iterator[Block]:
    """The ``python`` blocks of a page, in order."""
    reason, begin = "", 0
    taken: list[str] = []
    for number, line in enumerate(page.splitlines(), start=1):
        if begin:
            if line.startswith("```"):
                yield Block("\n".join(taken) + "\n", begin, reason)
                reason, begin, taken = "", 0, []
            else:
                taken.append(line)
        elif line.rstrip() == "```python":
            begin = number + 1
        elif line.strip():
            told = _NOT_RUN.fullmatch(line.strip())
            reason = told[1] if told else ""


def run_page(page: Path, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a page in an interpreter of its own, which sees nothing of this process's set-up."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("OS_", "GRPC_"))
    }
    return subprocess.run(
        [sys.executable, "-m", "tests.support.examples", str(page), str(directory)],
        cwd=ROOT,
        env={**inherited, "XDG_STATE_HOME": str(directory / "state")},
        capture_output=True,
        text=True,
        check=False,
    )


def _run(page: Path, directory: Path) -> int:
    """Run the blocks of a page here; answers how many sessions showed something else."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    runner = doctest.DocTestRunner(optionflags=_FLAGS)
    os.chdir(directory)
    for block in blocks_of(page.read_text()):
        text = block.text.replace(DIRECTORY, str(directory / "volumes"))
        if block.session and not block.not_run:
            parser = doctest.DocTestParser()
            test = parser.get_doctest(text, namespace, page.name, str(page), block.line - 1)
            test.globs = namespace  # not a copy: the next block goes on with it
            runner.run(test, clear_globs=False)
            continue
        # Empty lines in front, so that a traceback tells the page's own line.
        code = compile("\n" * (block.line - 1) + text, str(page), "exec")
        if not block.not_run:
            exec(code, namespace)
    return runner.summarize(verbose=False).failed


if __name__ == "__main__":
    sys.exit(1 if _run(Path(sys.argv[1]), Path(sys.argv[2])) else 0)
