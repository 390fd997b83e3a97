"""Keys from a mounted Secret, replaced as kubelet replaces them while the plugin runs."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from csi_driver.base import sealing
from csi_driver.base.publish_context import KEY
from csi_driver.base.sealing import KeyRing, key_id_of
from csi_driver.cli.keys import SETTLED_SECONDS
from tests.cluster.accounts import add_node, install
from tests.cluster.apiserver import ApiServer
from tests.cluster.plugin import make_keys, plugin
from tests.support import leftovers
from tests.support.calls import Calls
from tests.support.driver_process import COMMAND

DRIVER = "keys.example.com"


class MountedSecret:
    """A directory as kubelet makes it: names lead through ``..data`` to one version of all."""

    def __init__(self, path: Path, rings: Path) -> None:
        self.path = path
        self._versions = 0
        path.mkdir()
        self.update(rings)
        for ring in sorted(rings.iterdir()):
            (path / ring.name).symlink_to(Path("..data") / ring.name)

    def update(self, rings: Path) -> None:
        """Show other content, all of it at once."""
        self._versions += 1
        version = f"..version-{self._versions}"
        shutil.copytree(rings, self.path / version)
        (self.path / "..data_tmp").symlink_to(version)
        before = (self.path / "..data").resolve() if (self.path / "..data").exists() else None
        (self.path / "..data_tmp").rename(self.path / "..data")
        if before is not None:
            shutil.rmtree(before)


def prune(server: ApiServer, rings: Path) -> str:
    """`cinder-csi keys prune`, beside the running controller."""
    arguments = (
        f"--keys-dir={rings}",
        "--store=kubernetes",
        f"--kubeconfig={server.kubeconfig}",
        f"--driver-name={DRIVER}",
    )
    command = [COMMAND, "keys", "prune", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("k")
    yield directory
    leftovers.release(directory)


@pytest.mark.root
def test_keys_are_rotated_and_pruned_while_the_plugin_runs(apiserver: ApiServer, directory: Path):
    install(apiserver)
    add_node(apiserver, "n1")
    rings = make_keys(directory / "rings")
    secret = MountedSecret(directory / "secret", rings)
    node = plugin(apiserver, directory / "n", "node", "n1", driver=DRIVER, keys=secret.path)
    controller = plugin(
        apiserver, directory / "c", "controller", "n1", driver=DRIVER, keys=secret.path
    )
    with node, controller, Calls(controller) as on_controller, Calls(node) as on_node:
        first, second = (on_controller.create(name).volume_id for name in ("first", "second"))
        old = on_controller.publish(first, "n1")

        rotate = partial(KeyRing.rotated, now=time.time() - 2 * SETTLED_SECONDS)
        before, transport = sealing.change(rings / "transport.json", rotate)
        sealing.change(rings / "records.json", rotate)
        secret.update(rings)

        # What is published stays as it was answered, and what is new has the new key.
        assert on_controller.publish(first, "n1") == old
        assert key_id_of(old[KEY]) != transport.current
        new = on_controller.publish(second, "n1")
        assert key_id_of(new[KEY]) == transport.current

        for volume_id, context in ((first, old), (second, new)):
            staging = directory / volume_id
            staging.mkdir()
            on_node.stage(volume_id, context, str(staging))
            on_node.unstage(volume_id, str(staging))
            stays = f"transport: key {before.current} stays, volumes published with it: 1"
            assert (stays in prune(apiserver, rings)) == (volume_id == first)
            on_controller.unpublish(volume_id, "n1")
            on_controller.delete(volume_id)

        assert set(sealing.load(rings / "transport.json").keys) == {transport.current}
        secret.update(rings)
        third = on_controller.create("third").volume_id
        on_node.stage(third, on_controller.publish(third, "n1"), str(staging))
        on_node.unstage(third, str(staging))
        on_controller.unpublish(third, "n1")
        on_controller.delete(third)
