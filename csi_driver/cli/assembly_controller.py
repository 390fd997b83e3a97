"""Puts a controller together: store, Cinder's runtime, backends, use cases."""

from __future__ import annotations

import logging
from collections.abc import Callable

from csi_driver.base.sealing import KeyRing
from csi_driver.cinderlib.lookup import StoreLookup
from csi_driver.cinderlib.manager import VolumeManager
from csi_driver.cinderlib.persistence.factory import open_store
from csi_driver.cinderlib.persistence.sealed import SealedStore
from csi_driver.cinderlib.persistence.store import RecordStore
from csi_driver.cinderlib.runtime import bootstrap, drivers
from csi_driver.cli.installation import prove
from csi_driver.cli.shared_directory import SharedDirectory
from csi_driver.cli.store_options import asked, remembered
from csi_driver.config import Settings
from csi_driver.controller.backends import Backends, ControllerBackend
from csi_driver.controller.context import ControllerContext
from csi_driver.controller.service import ControllerService

LOG = logging.getLogger("csi_driver.serve")


def make_controller(settings: Settings, keys: Callable[[], KeyRing]) -> ControllerService:
    """The controller of this process, with its store proved and its backends set up.

    :raises CinderCSIError: store, state directory or a backend cannot be used.
    """
    kind, url = settings.store.value, settings.store_url
    store = open_store(asked(kind, url), settings.state_dir)
    try:
        prove(store, remembered(kind, url), settings.state_dir)
        _seal_what_is_older(store)
        nodes = SharedDirectory(settings.state_dir)
        context = ControllerContext(
            store=store,
            backends=Backends(_backends(settings, store, nodes)),
            nodes=nodes,
            keys=keys,
            driver_name=settings.driver_name,
            topology_key=settings.topology_key,
        )
    except BaseException:
        store.close()
        raise
    return ControllerService(context)


def _seal_what_is_older(store: RecordStore) -> None:
    """Let the current records key be the only one in use, before records are planned on."""
    if isinstance(store, SealedStore) and (written := store.reseal()):
        LOG.info("%d records were sealed with the current key", written)


def _backends(
    settings: Settings, store: RecordStore, nodes: SharedDirectory
) -> list[ControllerBackend]:
    bootstrap.setup(
        bootstrap.RuntimeSettings(
            state_path=settings.state_dir / "cinder", cinder_options=settings.cinder_options
        )
    )
    lookup = StoreLookup(store)
    made = []
    for backend in settings.backends():
        options = {"volume_driver": backend.driver, **backend.options}
        drivers.refuse_unsupported(backend.name, options)
        manager = VolumeManager(backend.name, options, lookup)
        made.append(ControllerBackend(manager, nodes, settings.topology_key))
    return made
