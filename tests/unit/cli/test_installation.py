"""A store is used only with the state directory that it belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from csi_driver.base.errors import ConfigurationError
from csi_driver.cinderlib.persistence.factory import database_path, open_store
from csi_driver.cinderlib.persistence.store import RecordStore
from csi_driver.cli.installation import prove


@contextmanager
def opened(kind: str, state_dir: Path) -> Iterator[RecordStore]:
    store = open_store(kind, state_dir)
    try:
        yield store
    finally:
        store.close()


def use(kind: str, state_dir: Path) -> str:
    with opened(kind, state_dir) as store:
        prove(store, kind, state_dir)
        return store.installation_id


def lose_store(state_dir: Path) -> None:
    for path in database_path(state_dir).parent.iterdir():
        path.unlink()


def test_a_store_is_proved_at_every_start(tmp_path: Path):
    assert use("db", tmp_path) == use("db", tmp_path)


def test_an_empty_store_beside_a_used_directory_is_refused(tmp_path: Path):
    installation = use("db", tmp_path)
    lose_store(tmp_path)
    with pytest.raises(ConfigurationError, match="is empty and new") as refused:
        use("db", tmp_path)
    assert installation in str(refused.value)
    assert "Restore the store from a backup" in str(refused.value)


def test_it_stays_refused_at_the_next_start(tmp_path: Path):
    use("db", tmp_path)
    lose_store(tmp_path)
    for reason in ("is empty and new", "belongs to another installation"):
        with pytest.raises(ConfigurationError, match=reason):
            use("db", tmp_path)


def test_the_store_of_another_directory_is_refused(tmp_path: Path):
    use("db", tmp_path / "mine")
    use("db", tmp_path / "other")
    lose_store(tmp_path / "mine")
    for path in database_path(tmp_path / "other").parent.iterdir():
        path.rename(database_path(tmp_path / "mine").parent / path.name)
    with pytest.raises(ConfigurationError, match="belongs to another installation"):
        use("db", tmp_path / "mine")


@pytest.mark.parametrize(("first", "second"), [("db", "memory"), ("memory", "db")])
def test_a_directory_is_used_with_one_kind_of_store(tmp_path: Path, first: str, second: str):
    use(first, tmp_path)
    with pytest.raises(ConfigurationError, match=f"with --store {first}, not {second}"):
        use(second, tmp_path)


def test_a_memory_store_is_new_every_time(tmp_path: Path):
    assert use("memory", tmp_path) != use("memory", tmp_path)


def test_a_memory_store_is_refused_beside_volumes_that_are_staged(tmp_path: Path):
    use("memory", tmp_path)
    staged = tmp_path / "node" / "volumes"
    staged.mkdir(parents=True)
    (staged / "vol-1.json").touch()
    with pytest.raises(ConfigurationError, match="1 volumes are still staged"):
        use("memory", tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"installation_id": 7, "store": "db"}'])
def test_a_damaged_proof_is_named_and_kept(tmp_path: Path, content: str):
    use("db", tmp_path)
    (tmp_path / "installation.json").write_text(content)
    with pytest.raises(ConfigurationError, match=r"installation\.json is damaged"):
        use("db", tmp_path)
    assert (tmp_path / "installation.json").read_text() == content
