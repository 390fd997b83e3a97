"""How a store is asked for: by name, mapping, class, instance or entry point."""

from __future__ import annotations

import sys
import textwrap
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from csi_driver.base.errors import ConfigurationError
from csi_driver.cinderlib.persistence.factory import open_store, records_key_path
from csi_driver.cinderlib.persistence.memory import MemoryStore
from csi_driver.cinderlib.persistence.records import KeyValueRecord
from csi_driver.cinderlib.persistence.sealed import SealedStore


class Shelf(MemoryStore):
    """A store of somebody else."""

    lasting = True

    def __init__(self, label: str = "none") -> None:
        super().__init__()
        self.label = label


@pytest.mark.parametrize("config", ["memory", {"storage": "memory"}, {}])
def test_memory_by_name_by_mapping_and_by_default(tmp_path: Path, config: Any) -> None:
    with closing(open_store(config, tmp_path)) as store:
        assert isinstance(store, MemoryStore)


def test_a_class_is_made_with_its_options_and_its_secrets_are_sealed(tmp_path: Path) -> None:
    with closing(open_store({"storage": Shelf, "label": "left"}, tmp_path)) as store:
        assert isinstance(store, SealedStore)
        assert isinstance(store._inner, Shelf)
        assert store._inner.label == "left"
        store.put(KeyValueRecord(id="k", value="a secret"))
        kept = store._inner.get(KeyValueRecord, "k")
        assert kept is not None
        assert "a secret" not in str(kept.value)
    assert records_key_path(tmp_path).exists()


@pytest.mark.parametrize("wrap", [lambda store: store, lambda store: {"storage": store}])
def test_an_instance_is_used_as_it_is(tmp_path: Path, wrap: Any) -> None:
    mine = MemoryStore()
    assert open_store(wrap(mine), tmp_path) is mine


def test_a_store_is_found_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(tmp_path, "their_store:Shelf")
    (tmp_path / "their_store.py").write_text(
        textwrap.dedent("""
            from csi_driver.cinderlib.persistence.memory import MemoryStore

            class Shelf(MemoryStore):
                pass
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    with closing(open_store("shelf", tmp_path / "state")) as store:
        assert type(store).__name__ == "Shelf"
    with pytest.raises(ConfigurationError, match="shelf"):
        open_store("shelv", tmp_path)


@pytest.mark.parametrize(
    ("value", "complaint"),
    [("no_such_module:Shelf", "cannot be loaded"), ("textwrap:dedent", "not derived from")],
)
def test_an_entry_point_that_is_no_store_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, complaint: str
) -> None:
    offer(tmp_path, value)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError, match=complaint):
        open_store("shelf", tmp_path)


def offer(directory: Path, value: str) -> None:
    """Install a distribution that offers the store ``shelf``."""
    information = directory / "theirs-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[csi_driver.persistence]\nshelf = {value}\n")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("memroy", "Did you mean memory"),
        ("dbms", "There are db, memory, memory_db"),
        ({"storage": "db", "conection": "x"}, "Did you mean connection"),
        ({"storage": "memory", "connection": "x"}, "memory has no options"),
        ({"connection": "postgresql://host/database"}, '"storage": "db"'),
        ({"storage": "db", "soft_deletes": True}, "gone"),
        ({"storage": "db", "sqlite_synchronous": "yes"}, "True or False"),
        ({"storage": "db", "connection": 7}, "URL"),
        ({"storage": MemoryStore(), "label": "x"}, "no options"),
        ({"storage": Shelf, "lable": "x"}, "label"),
        ({"storage": 7}, "RecordStore"),
        (dict, "not derived from RecordStore"),
        ({"storage": "db", "connection": "mysql://u:hidden-word@host/database"}, "postgresql://"),
        ({"storage": "db", "connection": "hidden-word"}, "postgresql://"),
        ({"storage": "db", "connection": "sqlite:relative"}, "sqlite:////"),
        ({"storage": "db", "connection": "postgresql://u:hidden-word@h:port/d"}, "%-encode"),
        ({"storage": "db", "connection": "postgresql://u:hid@hidden-word@h/d"}, "%-encode"),
        ({"storage": "db", "connection": "postgresql://u:hid@hidden-word/@h/d"}, "%-encode"),
        ({"storage": "db", "connection": "postgresql://u:hidden-word@h"}, "names no database"),
        (
            {
                "storage": "db",
                "connection": "postgresql://h/d",
                "sqlite_synchronous": False,
            },
            "Leave it out",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_is_nearest(
    tmp_path: Path, config: Any, says: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        open_store(config, tmp_path)
    assert says in str(refused.value)
    assert "hidden-word" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_without_the_driver_the_package_to_install_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)  # as Python marks what is not there
    with pytest.raises(ConfigurationError, match=r"cinder-csi-driver\[postgresql\]"):
        open_store({"storage": "db", "connection": "postgresql://h/d"}, tmp_path)


def test_a_sqlite_file_is_kept_where_the_url_says(tmp_path: Path) -> None:
    file = tmp_path / "elsewhere" / "records.db"
    config = {"storage": "db", "connection": f"sqlite:///{file}", "soft_deletes": False}
    with closing(open_store(config, tmp_path)) as store:
        store.put(KeyValueRecord(id="k", value=1))
    assert file.is_file()
    with closing(open_store(config, tmp_path)) as store:
        assert not store.fresh


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_a_sqlite_url_without_a_file_is_in_memory(tmp_path: Path, url: str) -> None:
    with closing(open_store({"storage": "db", "connection": url}, tmp_path)) as store:
        assert not store.lasting
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("synchronous", "level"), [(True, 2), (False, 1)])
def test_without_sqlite_synchronous_a_commit_does_not_wait_for_the_disk(
    tmp_path: Path, synchronous: bool, level: int
) -> None:
    config = {"storage": "db", "sqlite_synchronous": synchronous}
    with closing(open_store(config, tmp_path)) as store:
        assert isinstance(store, SealedStore)
        database: Any = store._inner
        with database._database.writer.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == level
