"""`cinder-csi serve` with its records in PostgreSQL: restarts, a second controller, secrets."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.calls import Calls
from tests.support.driver_process import COMMAND, DriverDidNotStart, DriverProcess
from tests.support.postgresql import PASSWORD, PostgresServer, running


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running() as server:
        yield server


@pytest.fixture
def url(server: PostgresServer) -> str:
    """By the port, with a password."""
    return server.port_url(server.new_database())


def run(process: DriverProcess, *arguments: str, url: str = "") -> subprocess.CompletedProcess[str]:
    """Another command on the state directory."""
    return subprocess.run(
        [COMMAND, *arguments, "--state-dir", process.state_directory],
        env={"PATH": "/usr/bin:/bin", **({"CINDER_CSI_STORE_URL": url} if url else {})},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_controller_that_was_killed_goes_on_with_its_records(
    driver: Callable[..., DriverProcess], url: str
) -> None:
    process = driver(environment={"CINDER_CSI_STORE_URL": url})
    process.start()
    with closing(Calls(process)) as calls:
        created = calls.create("data")
    process.kill()
    process.start()
    with closing(Calls(process)) as calls:
        assert calls.create("data").volume_id == created.volume_id
        # Beside the running controller, which has the lock.
        listed = run(process, "orphans", url=url)
        calls.delete(created.volume_id)
    assert listed.returncode == 0, listed.stderr
    assert "Orphans: none" in listed.stdout
    assert process.stop() == 0
    rotated, pruned = (
        run(process, "keys", "rotate", url=url),
        run(process, "keys", "prune", url=url),
    )
    assert "records: sealed anew" in rotated.stdout
    assert "removed" in pruned.stdout
    assert not (process.state_directory / "records").exists()
    told = "".join(done.stdout + done.stderr for done in (listed, rotated, pruned))
    assert PASSWORD not in process.logs() + told


def test_a_second_controller_is_refused_and_takes_over_when_the_first_is_gone(
    driver: Callable[..., DriverProcess], url: str, tmp_path: Path
) -> None:
    file = tmp_path / "url"
    file.write_text(url + "\n")
    first = driver(role="controller", arguments=("--store-url-file", str(file)))
    place = tmp_path / "second"
    place.mkdir()
    second = DriverProcess(
        place,
        role="controller",
        arguments=("--store-url-file", str(file), "--state-dir", str(first.state_directory)),
    )
    first.start()
    with closing(Calls(first)) as calls:
        created = calls.create("data")
    with pytest.raises(DriverDidNotStart, match=rf"in use by cinder-csi \S+/{first.pid} "):
        second.start()
    first.kill()
    with second, closing(Calls(second)) as calls:
        assert calls.create("data").volume_id == created.volume_id
        calls.delete(created.volume_id)
    assert PASSWORD not in first.logs() + second.logs()


def test_commands_that_are_not_told_where_the_records_are_change_nothing(
    driver: Callable[..., DriverProcess], url: str
) -> None:
    process = driver(environment={"CINDER_CSI_STORE_URL": url})
    process.start()
    process.stop()
    for command in (("orphans",), ("keys", "rotate"), ("keys", "prune")):
        done = run(process, *command)
        assert done.returncode == 2
        assert "are in a PostgreSQL database" in done.stderr
        assert "--store-url-file" in done.stderr
    with pytest.raises(DriverDidNotStart, match="was used with --store postgresql, not db"):
        driver(environment={"CINDER_CSI_STORE_URL": ""}).start()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--store-url", "postgresql://me:hidden-word@host/db"), "everybody on this machine"),
        (("--store-url", "postgresql://me@host/db?password=hidden-word"), "everybody"),
        (("--store-url", "postgresql://me:hid/@hidden-word@host/db"), "everybody"),
        (("--store-url", "mysql://host/db"), "not PostgreSQL's"),
        (("--store-url", "postgresql://host/db", "--store-url-file", "x"), "given twice"),
        (("--store-url-file", "not-there"), "cannot be read"),
        (("--store", "memory", "--store-url", "postgresql://host/db"), "--store memory has no URL"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(
    tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    done = subprocess.run(
        [COMMAND, "serve", "--state-dir", tmp_path, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "hidden-word" not in done.stderr
    assert list(tmp_path.iterdir()) == []
