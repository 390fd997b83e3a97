"""setup(): the store, the directory, and once per process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cinderlib.test_bootstrap import run

BACKEND = """
backend = cinderlib.Backend(
    "b", volume_driver="tests.doubles.driver.DoubleDriver", double_directory={files!r}
)
"""


def test_the_first_backend_sets_up_with_volumes_in_memory_and_files_below_the_state_directory(
    tmp_path: Path,
) -> None:
    result = run(
        """
import csi_driver.cinderlib as cinderlib
"""
        + BACKEND.format(files=str(tmp_path / "files"))
        + """
volume = backend.create_volume(1)
from csi_driver.cinderlib import session
print(json.dumps([volume.status, type(session.current().store).__name__]))
""",
        env={"XDG_STATE_HOME": str(tmp_path)},
    )

    assert result == ["available", "MemoryStore"]
    assert (tmp_path / "cinderlib" / "locks").is_dir()


def test_volumes_in_the_db_store_are_there_in_the_next_process(tmp_path: Path) -> None:
    begin = f"""
import csi_driver.cinderlib as cinderlib
cinderlib.setup({str(tmp_path)!r}, host="h", persistence_config={{"storage": "db"}})
""" + BACKEND.format(files=str(tmp_path / "files"))
    volume_id = run(begin + "print(json.dumps(backend.create_volume(3, name='kept').id))")

    result = run(
        begin
        + f"""
(volume,) = backend.volumes
again = cinderlib.Volume.get_by_id({volume_id!r})
told = [volume.id, again.name, again.size, again.status]
again.delete()
print(json.dumps([told, os.listdir({str(tmp_path / "files")!r})]))
"""
    )

    assert result == [[volume_id, "kept", 3, "available"], []]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("'dbms'", "no record store 'dbms'"),
        ("{'storage': 'db', 'conection': 'sqlite://'}", "Did you mean connection?"),
    ],
)
def test_a_store_that_does_not_exist_is_refused(tmp_path: Path, config: str, says: str) -> None:
    result = run(
        f"""
import csi_driver.cinderlib as cinderlib
try:
    cinderlib.setup({str(tmp_path)!r}, persistence_config={config})
except cinderlib.InvalidPersistence as error:
    print(json.dumps(str(error)))
"""
    )

    assert says in result


def test_setting_up_twice_is_refused(tmp_path: Path) -> None:
    result = run(
        f"""
import csi_driver.cinderlib as cinderlib
cinderlib.setup({str(tmp_path)!r})
try:
    cinderlib.setup({str(tmp_path)!r})
except cinderlib.SetupConflict as error:
    print(json.dumps(str(error)))
"""
    )

    assert result.startswith("Already set up")


def test_a_store_of_one_s_own_is_taken_as_it_is(tmp_path: Path) -> None:
    result = run(
        f"""
import csi_driver.cinderlib as cinderlib
from csi_driver.cinderlib import session
from csi_driver.cinderlib.persistence.memory import MemoryStore
store = MemoryStore()
cinderlib.setup({str(tmp_path)!r}, persistence_config=store)
print(json.dumps(session.current().store is store))
"""
    )

    assert result is True
