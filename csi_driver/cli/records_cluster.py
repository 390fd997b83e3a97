"""Where ``cinder-csi records`` finds records and brings them: a cluster."""

from __future__ import annotations

import dataclasses
import secrets
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager

from csi_driver.base.errors import ConfigurationError
from csi_driver.base.values import Confirmation, Formatting, FormattingState
from csi_driver.cinderlib.persistence.importing import Import
from csi_driver.cinderlib.persistence.kubernetes import definitions, importing
from csi_driver.cinderlib.persistence.kubernetes.reading import ClusterReader
from csi_driver.cinderlib.persistence.kubernetes.store import KubernetesStore
from csi_driver.cinderlib.persistence.records import ConnectionRecord, Record, VolumeRecord
from csi_driver.cinderlib.persistence.store import RecordStore, StoreLocked
from csi_driver.cli import records_counterparts
from csi_driver.cli.cluster import connection
from csi_driver.cli.cluster_ledger import ClusterLedger
from csi_driver.cli.records_counterparts import Counterparts
from csi_driver.config import Settings
from csi_driver.controller import restoring
from csi_driver.kube import node_objects
from csi_driver.kube.api import Api
from csi_driver.kube.election import LEASE_SECONDS, RETRY_SECONDS, Elector, Standing
from csi_driver.kube.errors import ApiNotFound
from csi_driver.kube.patient import PatientApi

TAKE_SECONDS = LEASE_SECONDS + 6.0
"""After so long the Lease of a controller that is dead was taken."""

SETTLE_SECONDS = 60.0
"""How long the column that tells where volumes are attached is waited for."""

_WRITERS = 32


class Leases:
    """The Lease of a driver, held so that no controller of it works meanwhile.

    The namespace of the controllers is where their Lease is: all namespaces are looked into.

    :param namespace: where the Lease is made if there is none.
    """

    def __init__(self, api: Api, driver: str, namespace: str) -> None:
        self._api = api
        self._driver = driver
        self._namespace = namespace
        self._me = f"{socket.gethostname()}/cinder-csi-records-{secrets.token_hex(4)}"
        self._electors: list[Elector] = []

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold it.

        :raises StoreLocked: a controller holds it.
        :raises ApiError: the API server cannot be asked.
        """
        seen = self._seen()
        with ExitStack() as release:
            for namespace in sorted(seen) or [self._existing(self._namespace)]:
                at = dataclasses.replace(self._api.connection, namespace=namespace)
                api = release.enter_context(closing(Api(at, connections=2)))
                elector = Elector(api, self._driver, self._me)
                elector.start()
                release.callback(elector.stop)
                self._electors.append(elector)
            for elector in self._electors:
                self._take(elector, seen)
            yield

    def _take(self, elector: Elector, before: dict[str, tuple[str, str]]) -> None:
        """Wait until this process leads; no longer than it takes to see that another is alive.

        :param before: the Leases as they were found.
        """
        until = time.monotonic() + TAKE_SECONDS
        while elector.wait_to_lead(RETRY_SECONDS) is not Standing.LEADING:
            alive = any(
                renewed != before[at][1] and holder == before[at][0] not in ("", self._me)
                for at, (holder, renewed) in self._seen().items()
                if at in before
            )
            if alive or time.monotonic() > until:
                raise StoreLocked(
                    f"A controller of {self._driver} works on the records: {elector.explain()}",
                    advice="Scale the controllers to 0 for that moment; no workload notices."
                    " A backup is made beside them with --while-running",
                )

    def require_alone(self) -> None:
        """Return if it is held still, and no controller began in another namespace.

        :raises StoreLocked: one did.
        """
        self.require()
        others = {holder for holder, _ in self._seen().values() if holder not in ("", self._me)}
        if others:
            raise StoreLocked(
                f"A controller of {self._driver} began meanwhile: {', '.join(sorted(others))}",
                advice="Stop it, and do this again",
            )

    def require(self) -> None:
        """Return while it is held.

        :raises StoreLocked: it is not any more.
        """
        for elector in self._electors:
            if elector.wait_to_lead(TAKE_SECONDS) is not Standing.LEADING:
                raise StoreLocked(
                    f"The Lease was lost: {elector.explain()}", advice="Do this again"
                )

    def _seen(self) -> dict[str, tuple[str, str]]:
        """Who holds the Lease, and when it was renewed, by namespace."""
        named = {"fieldSelector": f"metadata.name={self._driver}"}
        found, _ = self._api.list("/apis/coordination.k8s.io/v1/leases", named)
        specs = {each["metadata"]["namespace"]: each.get("spec") or {} for each in found}
        return {
            namespace: (spec.get("holderIdentity") or "", spec.get("renewTime") or "")
            for namespace, spec in specs.items()
        }

    def _existing(self, namespace: str) -> str:
        try:
            self._api.get(f"/api/v1/namespaces/{namespace}")
        except ApiNotFound as error:
            raise ConfigurationError(
                f"There is no Lease of {self._driver}, and no namespace {namespace}",
                advice="Name the namespace of the controllers with --namespace",
            ) from error
        return namespace


class Cluster:
    """The records of a driver in a cluster; see :class:`~csi_driver.cli.records_homes.Home`."""

    def __init__(self, settings: Settings, namespace: str) -> None:
        self._api = PatientApi(connection(settings))
        self._driver = settings.driver_name
        self._leases = Leases(self._api, self._driver, namespace)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """See :meth:`Home.alone`."""
        with self._leases.held():
            yield
            self._leases.require_alone()

    def reader(self) -> ClusterReader:
        """See :meth:`Home.reader`."""
        definitions.check(self._api)
        return ClusterReader(PatientApi(self._api.connection), self._driver)

    def confirmed(
        self, reader: ClusterReader, records: Sequence[Record]
    ) -> dict[str, Confirmation]:
        """See :meth:`Home.confirmed`: a node's word counts while it has the volume.

        A word that does not count, or is damaged, is not proof that nobody's data is there.
        """
        published = {
            (each.volume_id, each.node_id) for each in records if isinstance(each, ConnectionRecord)
        }
        volumes = (each for each in records if isinstance(each, VolumeRecord))
        never = {each.id for each in volumes if each.formatting.state is FormattingState.NEVER}
        found = {}
        for item in reader.confirmations():
            volume_id = item["metadata"]["name"]
            told = node_objects.confirmation_of(item)
            if told and told[0].volume_id == volume_id and (volume_id, told[1]) in published:
                found[volume_id] = told[0]
            elif volume_id in never:
                unknown = Formatting(state=FormattingState.UNKNOWN)
                found[volume_id] = Confirmation(volume_id=volume_id, formatting=unknown)
        return found

    def counterparts(self) -> Counterparts:
        """See :meth:`Home.counterparts`."""
        return records_counterparts.look(self._api, self._driver)

    @contextmanager
    def receiving(self, installation_id: str, this: Import) -> Iterator[RecordStore]:
        """See :meth:`Home.receiving`."""
        with self._leases.held():
            importing.begin(self._api, self._driver, this, installation_id)
            # Not the API of this object, which the store closes.
            api = Api(self._api.connection)
            store = KubernetesStore(api, self._driver, may_write=self._leases.require)
            with closing(store):
                yield store
                store.settle(SETTLE_SECONDS)

    def confirm(self, confirmations: Sequence[tuple[Confirmation, str]]) -> None:
        """See :meth:`Home.confirm`."""
        with ThreadPoolExecutor(_WRITERS, "confirm") as pool:
            list(pool.map(lambda each: self._confirm(*each), confirmations))

    def _confirm(self, confirmation: Confirmation, node_id: str) -> None:
        ledger = ClusterLedger(self._api, self._driver, node_id)
        if restoring.is_weaker(ledger.confirmation(confirmation.volume_id)):
            ledger.confirm(confirmation)
