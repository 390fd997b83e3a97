"""A real PostgreSQL server for tests, in a directory of its own, stopped at the end.

It listens on a unix socket (no password needed) and on a loopback port (password), and never as
root: initdb and postgres refuse that.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

USER = "keeper"
PASSWORD = "open-sesame/42"


def programs() -> Path | None:
    """The directory of initdb and pg_ctl; Debian keeps them off the path."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    installed = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((p.parent for p in installed), key=lambda p: int(p.parent.name), default=None)


class PostgresServer:
    """A server; ``socket_url`` and ``port_url`` are the URLs of a database."""

    def __init__(self, bin_directory: Path, directory: Path) -> None:
        self._bin = bin_directory
        self.directory = directory
        self._data = directory / "data"
        self._account = _unprivileged()
        self._names = itertools.count(1)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        if self._account:
            os.chown(directory, self._account.pw_uid, self._account.pw_gid)
        password_file = directory / "password"
        password_file.write_text(PASSWORD)
        password_file.chmod(0o644)
        access = ["--auth-local=trust", "--auth-host=scram-sha-256"]
        self._run(
            *("initdb", "--no-sync", "--encoding=UTF8", "--locale=C", f"--username={USER}"),
            *(f"--pwfile={password_file}", *access, f"--pgdata={self._data}"),
        )

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-p {self.port} -k {self.directory} -c listen_addresses=127.0.0.1 -c fsync=off"
        log = self.directory / "log"
        self._run("pg_ctl", "start", "-w", f"-D{self._data}", f"-l{log}", f"-o{options}")

    def stop(self) -> None:
        """Stop it: every connection ends."""
        self._run("pg_ctl", "stop", "-w", "-mimmediate", f"-D{self._data}")

    def new_database(self, encoding: str = "UTF8") -> str:
        """The name of an empty database."""
        name = f"records_{next(self._names)}"
        self.sql(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0")
        return name

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run a statement; its output without headings."""
        return self._run(
            *("psql", "-XAtq", f"-h{self.directory}", f"-p{self.port}", f"-U{USER}"),
            *(f"-d{database}", "-c", statement),
        ).strip()

    def socket_url(self, database: str) -> str:
        """By the unix socket, without a password."""
        return f"postgresql://{USER}@/{database}?host={self.directory}&port={self.port}"

    def port_url(self, database: str, password: str = PASSWORD) -> str:
        """By the loopback port, with a password."""
        quoted = password.replace("/", "%2F")
        return f"postgresql://{USER}:{quoted}@127.0.0.1:{self.port}/{database}"

    def _run(self, program: str, *args: str) -> str:
        account = self._account
        # A file: a pipe would stay open in the server that pg_ctl starts.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                [self._bin / program, *args],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
                check=False,
            )
            output.seek(0)
            said = output.read()
        assert done.returncode == 0, f"{program}: {said}"
        return said


def _unprivileged() -> pwd.struct_passwd | None:
    """Who runs the server when we are root."""
    if os.geteuid() != 0:
        return None
    accounts = {account.pw_name: account for account in pwd.getpwall()}
    return accounts.get("postgres") or accounts["nobody"]


@contextlib.contextmanager
def running() -> Iterator[PostgresServer]:
    """A server that runs; the test is skipped where PostgreSQL is not installed."""
    bin_directory = programs()
    if bin_directory is None:
        pytest.skip("the PostgreSQL server is not installed (Debian: postgresql)")
    # Not below pytest's directory, where nobody but its owner may go; short, for the socket.
    with tempfile.TemporaryDirectory(prefix="csi-pg-") as directory:
        server = PostgresServer(bin_directory, Path(directory))
        server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(AssertionError):  # a test may have stopped it
                server.stop()
