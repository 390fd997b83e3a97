"""The Python examples of the documentation run as they stand there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import examples, leftovers

PAGES = [
    page
    for page in sorted((examples.ROOT / "docs").glob("*.md"))
    if any(examples.blocks_of(page.read_text()))
]


@pytest.mark.root
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_of_a_page_run(page: Path, tmp_path: Path) -> None:
    done = examples.run_page(page, tmp_path)
    left = leftovers.release(tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    assert left == []


def run(tmp_path: Path, page: str) -> tuple[int, str]:
    file = tmp_path / "page.md"
    file.write_text(page)
    done = examples.run_page(file, tmp_path)
    return done.returncode, done.stdout + done.stderr


def test_blocks_go_on_from_one_another_in_a_directory_of_their_own(tmp_path: Path) -> None:
    page = """
Text.

```python
import os
path = "/var/lib/volumes"
```
```text
neither = Python
```
```python
>>> os.path.dirname(path) == os.getcwd()
True
>>> sorted([3, 1])
[1, ...]
```
"""
    assert run(tmp_path, page) == (0, "")


def test_an_error_tells_the_line_of_the_page(tmp_path: Path) -> None:
    status, said = run(tmp_path, "Text.\n\n```python\n1 + 1\nnothing_like_this\n```\n")

    assert status == 1
    assert 'page.md", line 5' in said


def test_a_session_that_shows_something_else_is_a_failure(tmp_path: Path) -> None:
    status, said = run(tmp_path, "```python\n>>> 1 + 1\n3\n```\n")

    assert status == 1
    assert "Got:\n    2" in said


def test_a_block_that_is_not_run_is_compiled(tmp_path: Path) -> None:
    not_run = "<!-- not run: there is no such array here -->\n```python\n{}\n```\n"

    assert run(tmp_path, not_run.format("raise ValueError")) == (0, "")
    status, said = run(tmp_path, not_run.format("raise ("))
    assert status == 1
    assert "SyntaxError" in said
