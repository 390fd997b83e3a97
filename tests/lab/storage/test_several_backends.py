"""LVM on this kernel and two simulated arrays in one process, with threads at work on all."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.simulators.conftest import kaminario_options, xtremio_options
from tests.simulators.kaminario import Kaminario
from tests.simulators.test_several_backends import live
from tests.simulators.xtremio import XtremIO

if TYPE_CHECKING:
    from csi_driver.cinderlib.backend import Backend

pytestmark = [
    pytest.mark.usefixtures("nothing_left"),
    pytest.mark.filterwarnings("ignore:Unverified HTTPS request"),
]


@pytest.fixture
def arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[XtremIO, Kaminario]]:
    """Both arrays; certificates that nobody checks are not loaded for every request."""
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    monkeypatch.setenv("SSL_CERT_DIR", "/dev/null")
    with ExitStack() as stack:
        yield stack.enter_context(XtremIO()), stack.enter_context(Kaminario(tmp_path / "k2"))


def test_threads_work_on_lvm_and_both_arrays_at_once(
    lvm: Backend, arrays: tuple[XtremIO, Kaminario]
) -> None:
    import csi_driver.cinderlib as cinderlib

    xms, k2 = arrays
    with ExitStack() as closing:
        others = [
            cinderlib.Backend("xtremio", **xtremio_options(xms, xtremio_clean_unused_ig=True)),
            cinderlib.Backend("kaminario", **kaminario_options(k2)),
        ]
        for each in others:
            closing.callback(each.close)
        with ThreadPoolExecutor(6) as pool:
            work = [pool.submit(live, each, number) for number in (1, 2) for each in (lvm, *others)]
            for done in work:
                done.result()
        assert [each.volumes for each in (lvm, *others)] == [[], [], []]
    assert xms.everything() == k2.everything() == {}
