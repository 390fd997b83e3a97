"""Run a program and wait for it, safely beside a gRPC server.

The one way in which ``attach`` and ``node`` start programs.  A child is started
by vfork: Python takes that path as long as no ``preexec_fn`` is given, and only
then no code of this process (gRPC's fork handlers among it) runs in the child;
a plain fork beside a gRPC server hangs or crashes at random.  ``close_fds``
stays on: a descriptor of a loop device that leaks into a child that lives on
would keep the device busy.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from csi_driver.attach.errors import CommandFailed, CommandMissing, CommandTimeout

_REAP_SECONDS = 5.0
_TOLD_LINES = 5
_TOLD_CHARACTERS = 600
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Debian's names; other distributions use the same or nearly the same.
_PACKAGES = {
    "blkid": "util-linux",
    "wipefs": "util-linux",
    "mount": "mount",
    "umount": "mount",
    "cryptsetup": "cryptsetup-bin",
    "mkfs.ext3": "e2fsprogs",
    "mkfs.ext4": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "resize2fs": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "xfs_growfs": "xfsprogs",
}


class Secret(str):
    """An argument that no message, log or exception shows."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


@dataclass(frozen=True, kw_only=True)
class Completed:
    """A program that ended with an accepted exit code."""

    args: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str


def run(
    args: Sequence[str],
    *,
    timeout: float = 120,
    input: bytes | None = None,
    ok: Collection[int] = (0,),
) -> Completed:
    """Run a program to its end, with messages in the C locale.

    :param args: program and arguments; wrap what must stay unseen in :class:`Secret`.
    :param timeout: seconds; then the program and its children are killed.
    :param input: bytes for its standard input (for keys: they show nowhere).
    :param ok: exit codes that mean success.
    :raises CommandMissing: the program is not installed.
    :raises CommandTimeout: it took too long.
    :raises CommandFailed: it ended with another exit code.
    """
    try:
        child = subprocess.Popen(
            list(args),
            stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
            # A group of its own, so that a timeout reaches grandchildren too.
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise _missing(args[0]) from error
    except OSError as error:
        raise CommandMissing(f"{args[0]} cannot be started: {error.strerror}") from error
    try:
        stdout, stderr = _communicate(child, input, timeout)
    except subprocess.TimeoutExpired:
        gone = _kill(child)
        raise CommandTimeout(
            f"{_shown(args)} took more than {timeout:g} s and was killed"
            + ("" if gone else f"; process {child.pid} waits in the kernel and cannot die yet")
        ) from None
    except BaseException:
        _kill(child)
        raise
    output, errors = stdout.decode("utf-8", "replace"), stderr.decode("utf-8", "replace")
    if child.returncode not in ok:
        # Some programs, e2fsck among them, give the reason on standard output.
        said = _last_lines(f"{output}\n{errors}", args)
        raise CommandFailed(_shown(args), child.returncode, said)
    return Completed(args=tuple(args), returncode=child.returncode, stdout=output, stderr=errors)


def _communicate(
    child: subprocess.Popen[bytes], input: bytes | None, timeout: float
) -> tuple[bytes, bytes]:
    """What ``Popen.communicate`` answers, without its pauses.

    With a time limit that one looks for the child's end with pauses of half a
    millisecond and more; a pidfd tells it (Linux 5.3).

    :raises subprocess.TimeoutExpired: it took too long.
    """
    if input is not None or child.stdout is None or child.stderr is None:
        return child.communicate(input, timeout=timeout)
    try:
        ended = os.pidfd_open(child.pid)
    except OSError:
        return child.communicate(input, timeout=timeout)
    deadline = time.monotonic() + timeout
    said: dict[int, list[bytes]] = {child.stdout.fileno(): [], child.stderr.fileno(): []}
    try:
        with selectors.PollSelector() as selector:
            for descriptor in (ended, *said):
                selector.register(descriptor, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    raise subprocess.TimeoutExpired(child.args, timeout)
                for key, _ in ready:
                    text = os.read(key.fd, 1 << 16) if key.fd in said else b""
                    if text:
                        said[key.fd].append(text)
                    else:
                        selector.unregister(key.fd)
    finally:
        os.close(ended)
    child.wait()
    stdout, stderr = map(b"".join, said.values())
    child.stdout.close()
    child.stderr.close()
    return stdout, stderr


def _environment() -> dict[str, str]:
    path = os.environ.get("PATH", "")
    return {
        **os.environ,
        "LC_ALL": "C",
        "PATH": f"{path}:{_SYSTEM_PATH}" if path else _SYSTEM_PATH,
    }


def _missing(program: str) -> CommandMissing:
    package = _PACKAGES.get(os.path.basename(program), "")  # noqa: PTH119 - a name, not a path
    return CommandMissing(
        f"The program {program} is not installed on this node",
        advice=f"Install the package {package}" if package else f"Install {program}",
    )


def _kill(child: subprocess.Popen[bytes]) -> bool:
    """Kill a child and its group; True when it is gone and reaped.

    A process that waits for a dead device cannot be killed: it is waited for a
    few seconds, and reaped later when the next child is started.
    """
    # The child is not reaped yet, so its id, and the id of its group, are still its own.
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
    try:
        child.wait(_REAP_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    finally:
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
    return True


def _shown(args: Sequence[str]) -> str:
    return " ".join("***" if isinstance(arg, Secret) else arg for arg in args)


def _last_lines(said: str, args: Sequence[str]) -> str:
    for arg in args:
        if isinstance(arg, Secret) and arg:
            said = said.replace(arg, "***")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return "; ".join(lines[-_TOLD_LINES:])[-_TOLD_CHARACTERS:]
