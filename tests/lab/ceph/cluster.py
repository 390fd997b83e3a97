"""A Ceph cluster of ordinary processes on this machine, for tests.

One monitor, one manager and one OSD that keeps its objects in memory, of Debian's packages,
without systemd and without a kernel module. They listen on 127.0.0.1 alone, keep their files in
one directory, and are ended by their process ids. Ready after about 3 s; 400 MiB of memory.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.waiting import wait_until

PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-mgr", "ceph-osd", "monmaptool", "rbd")

COMMAND_SECONDS = 30.0
"""Time limit of a command; without one, each waits for ever while the cluster is not well."""

STOP_SECONDS = 10.0
WATCH_SECONDS = 4
"""After which the cluster takes a client that was killed for dead; 30 s by default."""

POOL = "volumes"
USER = "cinder"

_EXTENSIONS = Path("/usr/lib/python3/dist-packages")

_CONFIGURATION = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]
public network = 127.0.0.0/8
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
keyring = {directory}/keyring
run dir = {directory}
# A socket's path is short, and that of a test's directory is not.
admin socket =
log file = {directory}/$name.log
crash dir = {directory}
osd pool default size = 1
osd pool default min size = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon allow pool delete = true
mon warn on pool no redundancy = false

[mon]
mon data = {directory}/mon.$id
mon cluster log file = {directory}/cluster.log
mon data avail warn = 1
mon data avail crit = 1
# One monitor agrees with itself at once.
paxos propose interval = 0.05
paxos min wait = 0.01

[mgr]
mgr data = {directory}/mgr.$id
mgr initial modules =
mgr stats period = 1

[osd]
osd data = {directory}/osd.$id
osd objectstore = memstore
memstore device bytes = 4294967296
osd client watch timeout = {watch}

[client.{user}]
keyring = {directory}/client.{user}.keyring
"""


def missing() -> str:
    """Why no cluster can run here, or no test can talk to it; '' when nothing is missing."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"no {', '.join(absent)}: run make lab-setup"
    if not all(_extension(name).exists() for name in ("rados", "rbd")):
        version = sysconfig.get_python_version()
        return f"Debian's rados and rbd modules are not for CPython {version}"
    return ""


def _extension(name: str) -> Path:
    return _EXTENSIONS / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"


def link_bindings(directory: Path) -> None:
    """Make a directory for ``sys.path`` that holds Debian's rados and rbd, and nothing else."""
    directory.mkdir()
    for name in ("rados", "rbd"):
        source = _extension(name)
        (directory / source.name).symlink_to(source)


class Cluster:
    """The cluster; as a context manager it runs until the end.

    :param directory: an existing, empty directory for all its files.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.conf = directory / "ceph.conf"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the daemons, the last one first."""
        for process in reversed(self._daemons.values()):
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._daemons.clear()

    @contextmanager
    def frozen(self, daemon: str) -> Iterator[None]:
        """Let a daemon do nothing, like a machine that hangs; ``mon``, ``mgr`` or ``osd``."""
        process = self._daemons[daemon]
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def ceph(self, *arguments: str, stdin: str = "") -> str:
        """What a ``ceph`` command of the administrator answers."""
        return self._run("ceph", "-c", str(self.conf), *arguments, stdin=stdin)

    def configuration(self, name: str, client: Mapping[str, str]) -> Path:
        """A further ceph.conf, with options for the user of the driver."""
        path = self.directory / f"{name}.conf"
        options = "".join(f"{key} = {value}\n" for key, value in client.items())
        path.write_text(self.conf.read_text() + options)
        return path

    @property
    def keyring(self) -> Path:
        """The keyring of the driver's user."""
        return self.directory / f"client.{USER}.keyring"

    @property
    def key(self) -> str:
        """The secret in it."""
        return self.ceph("auth", "print-key", f"client.{USER}").strip()

    # -- start -----------------------------------------------------------------

    def _start(self) -> None:
        fsid = Path("/proc/sys/kernel/random/uuid").read_text().strip()
        v2, v1 = _free_ports(2)
        self.conf.write_text(
            _CONFIGURATION.format(
                fsid=fsid, directory=self.directory, v1=v1, v2=v2, user=USER, watch=WATCH_SECONDS
            )
        )
        self._start_monitor(fsid, f"[v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]")
        self._start_manager()
        self._start_osd()
        # Clones that do not need protected snapshots (clone v2).
        self.ceph("osd", "set-require-min-compat-client", "mimic")
        self.ceph("osd", "pool", "create", POOL, "8", "8")
        self.ceph("osd", "pool", "application", "enable", POOL, "rbd")
        profile = f"profile rbd pool={POOL}"
        self.keyring.write_text(
            self.ceph(
                "auth", "get-or-create", f"client.{USER}",
                "mon", "profile rbd", "osd", profile, "mgr", profile,
            )
        )  # fmt: skip
        wait_until("the cluster is healthy", lambda: self._health() == "HEALTH_OK")
        wait_until("the pool has statistics", self._has_statistics)

    def _start_monitor(self, fsid: str, address: str) -> None:
        keyring = str(self.directory / "keyring")
        everything = ("--cap", "mon", "allow *")
        self._run("ceph-authtool", "-C", keyring, "-g", "-n", "mon.", *everything)
        self._run(
            "ceph-authtool", keyring, "-g", "-n", "client.admin", *everything,
            "--cap", "osd", "allow *", "--cap", "mgr", "allow *",
        )  # fmt: skip
        monmap = str(self.directory / "monmap")
        self._run("monmaptool", "--create", "--addv", "a", address, "--fsid", fsid, monmap)
        common = ("-c", str(self.conf), "-i", "a")
        (self.directory / "mon.a").mkdir()
        self._run("ceph-mon", *common, "--mkfs", "--monmap", monmap, "--keyring", keyring)
        shutil.copy(keyring, self.directory / "mon.a" / "keyring")
        self._daemon("mon", "ceph-mon", *common)

    def _start_manager(self) -> None:
        home = self.directory / "mgr.x"
        home.mkdir()
        keyring = home / "keyring"
        caps = ("mon", "allow profile mgr", "osd", "allow *")
        keyring.write_text(self.ceph("auth", "get-or-create", "mgr.x", *caps))
        self._daemon("mgr", "ceph-mgr", "-c", str(self.conf), "-i", "x", "-k", str(keyring))

    def _start_osd(self) -> None:
        home = self.directory / "osd.0"
        home.mkdir()
        keyring = str(home / "keyring")
        identity = Path("/proc/sys/kernel/random/uuid").read_text().strip()
        secret = self._run("ceph-authtool", "--gen-print-key").strip()
        given = json.dumps({"cephx_secret": secret})
        self.ceph("osd", "new", identity, "0", "-i", "-", stdin=given)
        self._run("ceph-authtool", "-C", keyring, "-n", "osd.0", "--add-key", secret)
        common = ("-c", str(self.conf), "-i", "0", "-k", keyring)
        self._run("ceph-osd", *common, "--mkfs", "--osd-uuid", identity)
        self._daemon("osd", "ceph-osd", *common)
        wait_until("the OSD is up", lambda: self._osds_up() == 1)

    def _osds_up(self) -> int:
        return int(json.loads(self.ceph("osd", "stat", "-f", "json"))["num_up_osds"])

    def _health(self) -> str:
        return str(json.loads(self.ceph("health", "-f", "json"))["status"])

    def _has_statistics(self) -> bool:
        try:
            self.ceph("osd", "pool", "get-quota", POOL)
        except ClusterFailed:
            return False
        return True

    def _daemon(self, name: str, *command: str) -> None:
        with (self.directory / f"{name}.out").open("wb") as output:
            self._daemons[name] = subprocess.Popen(
                (*command, "-f"), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def _run(self, *command: str, stdin: str = "") -> str:
        done = subprocess.run(
            command,
            check=False,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
        )
        if done.returncode != 0:
            raise ClusterFailed(f"{' '.join(command)}: {done.stderr or done.stdout}")
        return done.stdout


class ClusterFailed(Exception):
    """A command of the cluster failed."""


def _free_ports(number: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def environment(bindings: Path) -> dict[str, str]:
    """The environment of a child process that finds the bindings."""
    return {**os.environ, "PYTHONPATH": str(bindings)}
