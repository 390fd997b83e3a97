"""A lab kernel: Debian's user-mode Linux as an ordinary process of this host.

Used by ``relay`` to run tests where there is device-mapper, LIO and iSCSI, which the host's own
kernel may lack and in any case should not be asked for: what a test breaks is thrown away with the
process. The kernel and its root file system are made by tools/lab/parts/kernel.sh; the guest's
side is in tests/lab/guest.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]
GUEST = CHECKOUT / "tests/lab/guest"
SETUP = CHECKOUT / "tools/lab/parts/kernel.sh"

_REAP_SECONDS = 10.0


class NotSetUp(Exception):
    """The kernel is not on this machine."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a kernel is started for.

    :param command: run inside, with the checkout as its directory.
    :param environment: what the command finds in its environment.
    :param processor: of this host; a kernel that wanders between two takes twice the time.
    :param seconds: after which the kernel is killed, whatever it does.
    :param tap: network device of the host that becomes ``vec0`` inside; '' for none.
    :param namespace: network namespace of the host that has the tap.
    """

    name: str
    command: Sequence[str]
    processor: int
    seconds: float
    memory: str = "1500M"
    environment: Mapping[str, str] = field(default_factory=dict)
    tap: str = ""
    namespace: str = ""


class Kernel:
    """A running kernel; it and its memory are gone when the ``with`` ends.

    :ivar scratch: directory of the host that is writable inside, at the same path; it has the
        console too, in a file.
    """

    def __init__(self, job: Job, scratch: Path) -> None:
        self._job = job
        self.scratch = scratch
        self.log: list[str] = []
        self._script = scratch / f"{job.name}.job"
        self._process: subprocess.Popen[str] | None = None
        self._timer = threading.Timer(job.seconds, self._kill)
        # What the console says is read as it comes, or the kernel would wait for a reader.
        self._reader = threading.Thread(target=self._read, name=f"console of {job.name}")
        self._said: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.timed_out = False

    def __enter__(self) -> Kernel:
        command = self.command(self._job, self._script)
        self._script.write_text(_script(self._job))
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # Its memory is a file, which is slow on anything but a tmpfs. It has no name.
            env={**os.environ, "TMPDIR": "/dev/shm"},
            # The kernel is many processes; they are one group, to be killed together.
            start_new_session=True,
        )
        self._timer.start()
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._kill()
        if self._process is not None:
            self._process.wait(_REAP_SECONDS)
            self._reader.join(_REAP_SECONDS)
            if self._process.stdout is not None:
                self._process.stdout.close()

    def command(self, job: Job, script: Path) -> list[str]:
        """The command line of a kernel that runs the script.

        :raises NotSetUp: there is no kernel on this machine.
        """
        made = _made()
        command = [*_in_namespace(job), "taskset", "-c", str(job.processor)]
        # When pytest is killed, the kernel goes too, with all the processes that it is made of.
        command += ["setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child"]
        return [*command, str(made / "linux"), *_kernel_arguments(job, made, script)]

    def lines(self) -> Iterator[str]:
        """What the console says, line by line, until the kernel has ended."""
        while (line := self._said.get()) is not None:
            yield line

    @property
    def status(self) -> int | None:
        """The exit status of the command; None if it did not come to its end."""
        with contextlib.suppress(OSError, ValueError):
            return int(Path(f"{self._script}.status").read_text())
        return None

    def end_of_log(self, lines: int = 80) -> str:
        """The last that the console said, and why there is no more."""
        said = [*self.log[-lines:]]
        if self.timed_out:
            said.append(f"[killed: the kernel did not end within {self._job.seconds:g} s]")
        return "\n".join(said)

    def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        with (self.scratch / f"{self._job.name}.console").open("w", buffering=1) as file:
            for line in self._process.stdout:
                file.write(line)
                self.log.append(line.rstrip())
                self._said.put(self.log[-1])
        self._said.put(None)

    def _kill(self) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self.timed_out = threading.current_thread() is self._timer
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """A directory to share with kernels; on the tmpfs where there is one."""
    with tempfile.TemporaryDirectory(prefix="csi-lab-", dir=_shared_memory()) as made:
        yield Path(made)


def processors() -> list[int]:
    """The processors of this host that may be used, the least taken first.

    A kernel is tied to its processor, and the scheduler moves all that is not out of its way. Two
    that are tied to the same one would share it, however idle the others are; so those come first
    to which no program is tied.
    """
    tied: Counter[int] = Counter()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            allowed = os.sched_getaffinity(int(process.name))
            is_program = (process / "cmdline").read_bytes() != b""  # and no thread of the kernel
            tied.update(allowed if is_program and len(allowed) == 1 else ())
    return sorted(os.sched_getaffinity(0), key=lambda number: (tied[number], -number))


def _shared_memory() -> str | None:
    return "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: PTH112


def _made() -> Path:
    told = subprocess.run(["bash", str(SETUP), "path"], capture_output=True, text=True, check=False)
    if told.returncode:
        raise NotSetUp("The lab kernel is not on this machine; run: make lab-setup")
    return Path(told.stdout.strip())


def _script(job: Job) -> str:
    exports = [f"export {name}={shlex.quote(value)}\n" for name, value in job.environment.items()]
    return f"{''.join(exports)}cd {shlex.quote(str(CHECKOUT))} && exec {shlex.join(job.command)}\n"


def _in_namespace(job: Job) -> list[str]:
    return ["ip", "netns", "exec", job.namespace] if job.namespace else []


def _kernel_arguments(job: Job, made: Path, script: Path) -> list[str]:
    read = {str(CHECKOUT), *_interpreter()}
    arguments = [
        f"mem={job.memory}",
        f"umid={job.name}",
        f"uml_dir={script.parent}/",
        "rootfstype=hostfs",
        f"rootflags={made / 'root'}",
        "ro",
        "init=/lab-init",
        "con=null",
        "con0=null,fd:1",
        "quiet",
        f"lab.init={GUEST / 'init.sh'}",
        f"lab.read={','.join(sorted(read))}",
        f"lab.write={script.parent}",
        f"lab.job={script}",
    ]
    if job.tap:
        arguments.append(f"vec0:transport=tap,ifname={job.tap},depth=128,gro=1")
    return arguments


def _interpreter() -> list[str]:
    """Directories of the running interpreter, but not the distribution's: the root has that."""
    home = str(Path(sys.base_prefix).resolve())
    return [] if home == "/usr" else [home]
