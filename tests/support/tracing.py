"""What a process wrote to its files and when it flushed them, by strace.

Used by the power loss tests.  strace stops the process at every call it looks at and writes the
calls down in the order in which they happened, across all threads; so "before" and "after" are
facts here, not guesses from timestamps.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

CALLS = "pwrite64,ftruncate,fsync,fdatasync,link,unlink"
"""What is looked at: SQLite's writes and flushes, and what the file backend makes and removes."""

END_SECONDS = 30.0

_LINE = re.compile(r"(?P<thread>\d+) +(?P<time>\d+\.\d+) (?P<rest>.*)")
_CALL = re.compile(r"(?P<name>\w+)\((?P<arguments>.*)\) += (?P<result>-?\d+).*<(?P<took>[\d.]+)>")
_RESUMED = re.compile(r"<\.\.\. \w+ resumed>(?P<rest>.*)")
_UNFINISHED = " <unfinished ...>"
_ESCAPED = re.compile(r'[<"]((?:\\x[0-9a-f]{2})+)[>"]')


class CannotTrace(Exception):
    """strace is not there, or the system allows it nothing."""


@dataclass(frozen=True)
class Syscall:
    """A call that succeeded.

    ``began`` and ``ended`` are places in the one order of everything; ``time`` is when it ended, in
    seconds since the epoch.  ``texts`` are the files and the data among its arguments, in order.
    """

    name: str
    texts: tuple[bytes, ...]
    numbers: tuple[int, ...]
    began: int
    ended: int
    time: float

    @property
    def path(self) -> Path:
        """The file that it is about; of a link, the file that is linked."""
        return Path(self.texts[0].decode())


class Tracing:
    """Watches a process from :meth:`__enter__` until the process ends.

    :raises CannotTrace: on entering, with strace's own words.
    """

    def __init__(self, pid: int, output: Path) -> None:
        self._pid = pid
        self._output = output

    def __enter__(self) -> Self:
        program = shutil.which("strace")
        if program is None:
            raise CannotTrace("strace is not installed")
        self._process = subprocess.Popen(
            [
                *(program, "--follow-forks", "--attach", str(self._pid), "--decode-fds=path"),
                *("--strings-in-hex=all", "--string-limit=1000000", "--syscall-times"),
                *("--absolute-timestamps=format:unix,precision:us", "--trace", CALLS),
                *("--output", str(self._output)),
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        said = self._process.stderr.readline()
        if "attached" not in said:
            self._process.wait(END_SECONDS)
            self._process.stderr.close()
            raise CannotTrace(said.strip())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.terminate()  # the process it watches was not ended: a test has failed
            self._process.wait(END_SECONDS)
        assert self._process.stderr is not None
        self._process.stderr.close()

    def calls(self) -> list[Syscall]:
        """The calls that succeeded, in the order of their ends; only after the end."""
        return parse(self._output.read_text())


def parse(text: str) -> list[Syscall]:
    """The calls in what strace wrote."""
    unfinished: dict[str, tuple[int, str]] = {}
    found: list[Syscall] = []
    for place, line in enumerate(text.splitlines()):
        parts = _LINE.match(line)
        if parts is None:
            continue
        thread, rest, began = parts["thread"], parts["rest"], place
        if rest.endswith(_UNFINISHED):
            unfinished[thread] = (place, rest.removesuffix(_UNFINISHED))
            continue
        resumed = _RESUMED.match(rest)
        if resumed:
            began, beginning = unfinished.pop(thread)
            rest = beginning + resumed["rest"]
        call = _CALL.match(rest)
        if call is None or int(call["result"]) < 0:
            continue
        texts = [bytes.fromhex(t.replace("\\x", "")) for t in _ESCAPED.findall(call["arguments"])]
        numbers = re.findall(r"(?<=, )\d+", _ESCAPED.sub("", call["arguments"]))
        found.append(
            Syscall(
                name=call["name"],
                texts=tuple(texts),
                numbers=tuple(map(int, numbers)),
                began=began,
                ended=place,
                # strace tells when a line began: for a resumed call that is its end.
                time=float(parts["time"]) + (0.0 if resumed else float(call["took"])),
            )
        )
    return found
