"""Puts a controller together: store, Cinder's runtime, backends, use cases."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass

from csi_driver.base.sealing import KeyFile, KeyRing
from csi_driver.cinderlib.lookup import StoreLookup
from csi_driver.cinderlib.manager import VolumeManager
from csi_driver.cinderlib.persistence import importing
from csi_driver.cinderlib.persistence.factory import open_store
from csi_driver.cinderlib.persistence.records import RECORD_TYPES, ConnectionRecord
from csi_driver.cinderlib.persistence.sealed import SealedStore
from csi_driver.cinderlib.persistence.store import RecordStore
from csi_driver.cinderlib.runtime import bootstrap, drivers
from csi_driver.cli.cluster import Replica, connection, refuse_lost_records
from csi_driver.cli.cluster_nodes import ClusterNodes
from csi_driver.cli.installation import prove
from csi_driver.cli.shared_directory import SharedDirectory
from csi_driver.cli.store_options import asked, remembered
from csi_driver.config import Settings
from csi_driver.controller import ids
from csi_driver.controller.backends import Backends, ControllerBackend
from csi_driver.controller.context import ControllerContext
from csi_driver.controller.ports import NodeDirectory
from csi_driver.controller.service import ControllerService
from csi_driver.kube.api import Api

LOG = logging.getLogger("csi_driver.serve")


def make_controller(settings: Settings, keys: Callable[[], KeyRing]) -> ControllerService:
    """The controller of this process, which is the only one of its records.

    :raises CinderCSIError: store, state directory or a backend cannot be used.
    """
    return _controller(settings, keys, _own_records(settings))


def make_replica(
    settings: Settings, keys: Callable[[], KeyRing], replica: Replica, stopped: Callable[[], bool]
) -> ControllerService | None:
    """The controller of one of several replicas, once it leads.

    :param stopped: whether the process was told to end meanwhile.
    :returns: None when it was.
    :raises CinderCSIError: store, API server or a backend cannot be used.
    """
    # Importing Cinder takes a second, which a standby has and a new leader has not.
    _set_up(settings)
    # Whoever starts a process turns the collector off; a standby may wait for days.
    gc.freeze()
    gc.enable()
    try:
        records = _cluster_records(settings, replica, stopped)
        if records is None:
            return None
        return _controller(settings, keys, records, replica.may_write)
    except BaseException:
        replica.stop()  # another may do better, and need not wait for the Lease to run out
        raise


def _controller(
    settings: Settings,
    keys: Callable[[], KeyRing],
    records: _Records,
    permit: Callable[[], None] = lambda: None,
) -> ControllerService:
    store, nodes = records.store, records.nodes
    try:
        _seal_what_is_older(store)
        context = ControllerContext(
            store=store,
            backends=Backends(_backends(settings, store, nodes, permit)),
            nodes=nodes,
            keys=keys,
            driver_name=settings.driver_name,
            topology_key=settings.topology_key,
            may_begin=records.may_begin,
            grace_seconds=settings.grace_seconds,
            attach_grace_seconds=settings.attach_grace_seconds,
        )
    except BaseException:
        store.close()
        raise
    return ControllerService(context)


@dataclass(frozen=True)
class _Records:
    """Where a controller reads and writes what it knows."""

    store: RecordStore
    nodes: NodeDirectory
    may_begin: Callable[[], bool] = lambda: True


def _own_records(settings: Settings) -> _Records:
    """A store of this process alone, and the state directory that it shares with nodes."""
    kind, url = settings.store.value, settings.store_url
    store = open_store(asked(kind, url), settings.state_dir)
    try:
        prove(store, remembered(kind, url), settings.state_dir)
    except BaseException:
        store.close()
        raise
    return _Records(store, SharedDirectory(settings.state_dir))


def _cluster_records(
    settings: Settings, replica: Replica, stopped: Callable[[], bool]
) -> _Records | None:
    """The records of a cluster, once this replica leads; None when it was stopped before.

    A standby follows them already, so that it can take over at once.
    """
    # Before the records are read: whoever leads then need not read them a second time.
    leads = replica.start()
    # Here, because other controllers do without.
    from csi_driver.cinderlib.persistence.kubernetes import importing as cluster_importing
    from csi_driver.cinderlib.persistence.kubernetes.store import KubernetesStore

    api = Api(connection(settings))
    driver = settings.driver_name

    def may_be_new() -> None:
        cluster_importing.refuse_unfinished(api, driver)
        refuse_lost_records(api, driver)

    def none_were_lost() -> bool:
        refuse_lost_records(api, driver)
        return True

    def open_records() -> KubernetesStore:
        return KubernetesStore(
            api,
            driver,
            speaks=replica.is_leading,
            may_write=replica.may_write,
            may_be_new=may_be_new,
        )

    inner = replica.once_there(open_records, stopped)
    if inner is None:
        return None
    store = SealedStore(inner, KeyFile(settings.records_keys, shared=settings.shares_keys))

    def is_published(volume_id: str, node_id: str) -> bool:
        return store.get(ConnectionRecord, ids.connection_id(volume_id, node_id)) is not None

    try:
        nodes = ClusterNodes(api, driver, is_published, inner.persistently)
        if not replica.wait_to_lead(stopped):
            store.close()
            return None
        if not leads:
            inner.refresh()
        importing.refuse_unfinished(store)
        # All may be lost although the CinderInstallation is there, as amid a restoration.
        empty = not any(store.list(kind, limit=1) for kind in RECORD_TYPES)
        if empty and not replica.once_there(none_were_lost, stopped):
            store.close()
            return None
    except BaseException:
        store.close()
        raise
    return _Records(store, nodes, replica.is_leading)


def _seal_what_is_older(store: RecordStore) -> None:
    """Let the current records key be the only one in use, before records are planned on."""
    if isinstance(store, SealedStore) and (written := store.reseal()):
        LOG.info("%d records were sealed with the current key", written)


def _backends(
    settings: Settings, store: RecordStore, nodes: NodeDirectory, permit: Callable[[], None]
) -> list[ControllerBackend]:
    _set_up(settings)
    lookup = StoreLookup(store)
    made = []
    for backend in settings.backends():
        options = {"volume_driver": backend.driver, **backend.options}
        drivers.refuse_unsupported(backend.name, options)
        manager = VolumeManager(backend.name, options, lookup, permit)
        made.append(ControllerBackend(manager, nodes, settings.topology_key))
    return made


def _set_up(settings: Settings) -> None:
    bootstrap.setup(
        bootstrap.RuntimeSettings(
            state_path=settings.state_dir / "cinder", cinder_options=settings.cinder_options
        )
    )
