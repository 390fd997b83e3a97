"""The generated pages say what the code does."""

from __future__ import annotations

import pytest

from csi_driver.cinderlib.runtime.catalog import ENTRIES
from csi_driver.controller.parameters import METADATA_KEYS, VOLUME_PARAMETERS
from csi_driver.rpc.errors import TABLE
from tools import generate_docs


def test_the_pages_are_current():
    assert generate_docs.main(["--check"]) == 0


def test_a_page_that_tells_something_else_is_found(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generate_docs, "DOCS", tmp_path)
    assert generate_docs.main(["--check"]) == 1
    assert "docs/errors.md, docs/parameters.md" in capsys.readouterr().err
    assert generate_docs.main([]) == 0
    assert generate_docs.main(["--check"]) == 0
    (tmp_path / "errors.md").write_text("old\n")
    assert generate_docs.main(["--check"]) == 1
    assert "docs/parameters.md" not in capsys.readouterr().err


def test_every_row_of_the_error_table_is_on_the_page():
    page = generate_docs.errors_page()
    assert page.count("\n| `") == len(TABLE)


def test_every_driver_is_on_the_page_and_no_path_of_this_machine():
    page = generate_docs.drivers_page()
    for entry in ENTRIES.values():
        assert page.count(f"\n| `{entry.short_name}` | ") == 1
    assert str(generate_docs.ROOT) not in page


@pytest.mark.parametrize("key", [*VOLUME_PARAMETERS, *METADATA_KEYS])
def test_every_parameter_is_on_the_page(key):
    assert f"| `{key}` |" in generate_docs.parameters_page()
