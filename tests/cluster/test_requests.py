"""What a start and calls cost at the API server: one list, few writes, and no list again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.accounts import add_node, install
from tests.cluster.apiserver import ApiServer
from tests.cluster.fault_proxy import FaultProxy
from tests.cluster.plugin import make_keys, plugin
from tests.support.calls import Calls

DRIVER = "requests.example.com"
CREATE_WRITES = 3
COPY_READS = 2
"""Of a volume that was never formatted: before the cut, and after."""


@pytest.fixture
def proxy(apiserver: ApiServer) -> Iterator[FaultProxy]:
    install(apiserver)
    add_node(apiserver, "n1")
    proxy = FaultProxy(apiserver)
    yield proxy
    proxy.close()


def of_records(seen: list[str]) -> list[str]:
    """The requests for records; the Lease is renewed whether calls come or not."""
    return [each for each in seen if "/cinderlib.io/" in each]


def test_a_controller_reads_once_a_create_writes_three_times_at_most_and_no_call_lists(
    apiserver: ApiServer, proxy: FaultProxy, tmp_path: Path
):
    keys = make_keys(tmp_path / "keys")
    controller = plugin(apiserver, tmp_path / "c", "controller", "n1", driver=DRIVER, keys=keys)
    kubeconfig = tmp_path / "c" / "kubeconfig"
    behind = kubeconfig.read_text().replace(apiserver.url, proxy.connection().server)
    kubeconfig.write_text(behind)
    with controller, Calls(controller) as calls:
        at_start = [each for each in proxy.seen if "/cindervolumes?" in each and "limit=" in each]
        assert len(at_start) == 1, "who leads at once reads the records once"
        del proxy.seen[:]
        made = [calls.create(f"data-{number}").volume_id for number in range(5)]
        after_create = of_records(proxy.seen)
        del proxy.seen[:]
        cut = calls.snapshot(made[0], "cut").snapshot_id
        reads = [each for each in of_records(proxy.seen) if each.startswith("GET ")]
        assert len([each for each in reads if "/cinderconfirmations/" in each]) == COPY_READS
        calls.delete_snapshot(cut)
        for volume_id in made:
            calls.delete(volume_id)
        after_delete = of_records(proxy.seen)
    writes = [each for each in after_create if not each.startswith("GET ")]
    assert 0 < len(writes) <= CREATE_WRITES * len(made), writes
    lists = [e for e in after_delete if e.startswith("GET ") and "limit=" in e]
    assert lists == []
    print(
        f"requests of {len(made)} CreateVolume: {len(after_create)}, of them writes: {len(writes)}"
    )
