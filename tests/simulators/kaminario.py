"""A Kaminario K2 array as Cinder's driver sees it through ``krest``.

Objects refer to one another as ``{"ref": "/volumes/3"}``.  Volumes live in groups, a
snapshot is one of a group, and a *view* is an exposable snapshot of a snapshot.  Every
volume and snapshot has a sparse file, so that a connector of the tests can attach it: the
driver makes copies by reading one and writing the other.  Replication is left out.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from tests.simulators.server import Answer, Array, Json, Refusal, Request
from tests.support import disks

LOGIN = ("kaminario_user", "kaminario_password")
BUILT_IN = "CTRL"
"""The volume, and its group, that the array has for itself."""

SERVING: dict[str, Kaminario] = {}
"""The arrays that serve now, by the name of their target: how a connector finds one."""

COLLECTIONS = (
    "volume_groups",
    "volumes",
    "snapshots",
    "volsnaps",
    "hosts",
    "host_iqns",
    "mappings",
    "retention_policies",
    "replication/sessions",
)
SYSTEM = ("system/state", "system/capacity", "system/net_ips")

_PREFIX = "/api/v2"
_OBJECT = re.compile(r"(.+?)/(\d+)")
_KIB_PER_GIB = 1 << 20


class Kaminario(Array):
    """The array.

    :param directory: where the files of volumes and snapshots are.
    :param snapshot_limit: snapshots and views that one volume group may have.
    """

    def __init__(
        self,
        directory: Path,
        *,
        rest_api_version: str = "2.5.0",
        total_gib: int = 1000,
        provisionable_gib: int = 20_000,
        snapshot_limit: int = 1000,
    ) -> None:
        super().__init__(LOGIN)
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._objects: dict[str, dict[int, Json]] = {kind: {} for kind in COLLECTIONS}
        self._numbers = itertools.count(1)
        self.rest_api_version = rest_api_version
        self.total_gib = total_gib
        self.provisionable_gib = provisionable_gib
        self.snapshot_limit = snapshot_limit
        self._add("retention_policies", {"name": "Best_Effort_Retention"})
        group = self._add("volume_groups", {"name": BUILT_IN, "is_dedup": False})
        self._add("volumes", {"name": BUILT_IN, "size": 0, "volume_group": _ref(group)})

    @property
    def target(self) -> str:
        """The name of the array's iSCSI target."""
        return f"iqn.2009-01.com.kaminario:storage.k2.{self.address.rpartition(':')[2]}"

    def __enter__(self) -> Self:
        super().__enter__()
        SERVING[self.target] = self
        return self

    def __exit__(self, *exception: Any) -> None:
        SERVING.pop(self.target)
        super().__exit__(*exception)

    # -- what a test sees ---------------------------------------------------------------

    def names(self, kind: str = "volumes") -> set[str]:
        """The names of the objects of a kind, without what the array has for itself."""
        with self.state:
            return {_name(entry) for entry in self._objects[kind].values()} - {BUILT_IN}

    def everything(self) -> dict[str, set[str]]:
        """The names of all that was made, by kind; kinds without objects are left out."""
        made = (kind for kind in COLLECTIONS if kind not in ("retention_policies", "volsnaps"))
        return {kind: self.names(kind) for kind in made if self.names(kind)}

    def size_gib(self, name: str) -> float:
        """The size of a volume."""
        with self.state:
            return float(self._named("volumes", name)["size"]) / _KIB_PER_GIB

    def mapped_to(self, volume: str) -> set[str]:
        """The names of the hosts that see a volume."""
        with self.state:
            target = _ref(self._named("volumes", volume))
            return {
                str(self._at(mapping["host"])["name"])
                for mapping in self._objects["mappings"].values()
                if mapping["volume"] == target
            }

    def write(self, name: str, content: str) -> None:
        """Write to the beginning of a volume, as a host would."""
        with self.file(name).open("r+b") as file:
            file.write(content.encode())

    def content(self, name: str) -> str:
        """What is at the beginning of a volume or snapshot."""
        with self.file(name).open("rb") as file:
            return file.read(512).rstrip(b"\0").decode()

    def file(self, name: str) -> Path:
        """The file of a volume or snapshot."""
        return self._directory / name

    def vanish(self, name: str) -> None:
        """Take a volume away with all its mappings, as an administrator would."""
        with self.state:
            volume = self._named("volumes", name)
            for mapping in self._mappings_of(volume):
                del self._objects["mappings"][mapping["id"]]
            self._remove("volumes", volume)

    def exported(self, iqn: str, lun: int) -> Path:
        """The file behind a LUN as an initiator sees it.

        :raises LookupError: nothing is mapped there.
        """
        with self.state:
            hosts = [_ref(self._at(i["host"])) for i in self._list("host_iqns") if i["iqn"] == iqn]
            for mapping in self._list("mappings"):
                if mapping["host"] in hosts and mapping["lun"] == lun:
                    target = self._at(mapping["volume"])
                    if "snapshot" in target:
                        target = self._at(target["snapshot"])
                    return self.file(_name(target))
        raise LookupError(f"{iqn} sees no LUN {lun}")

    # -- requests ---------------------------------------------------------------------

    def resource(self, path: str) -> str:
        inner = path.removeprefix(_PREFIX).strip("/")
        found = _OBJECT.fullmatch(inner)
        return found[1] if found else inner

    def refusal(self, message: str) -> Answer:
        return Answer(400, {"error_msg": message})

    def work(self, request: Request) -> Answer:
        inner = request.path.removeprefix(_PREFIX).strip("/")
        if not inner:
            known = (*COLLECTIONS, *SYSTEM)
            return Answer(200, {"resources": {kind: {"url": f"/{kind}"} for kind in known}})
        found = _OBJECT.fullmatch(inner)
        kind = found[1] if found else inner
        if kind not in self._objects and kind not in SYSTEM:
            raise Refusal(Answer(404, {"error_msg": "no such resource"}))
        if found is None:
            if request.method == "POST":
                return Answer(201, self._create(kind, dict(request.body)))
            return Answer(200, self._search(kind, request.query))
        entry = self._objects[kind].get(int(found[2]))
        if entry is None:
            raise Refusal(Answer(404, {"error_msg": "no such object"}))
        if request.method == "PATCH":
            return Answer(200, self._change(kind, entry, request.body))
        if request.method == "DELETE":
            self._remove(kind, entry)
            return Answer(204)
        return Answer(200, entry)

    def _no(self, message: str) -> Refusal:
        return Refusal(self.refusal(message))

    # -- reading -----------------------------------------------------------------------

    def _search(self, kind: str, query: dict[str, list[str]]) -> Json:
        hits = self._list(kind)
        for key, (value, *_) in query.items():
            if not key.startswith("__"):
                hits = [entry for entry in hits if self._matches(entry, key, value)]
        return {"hits": hits, "total": len(hits), "limit": len(hits), "offset": 0}

    def _matches(self, entry: Json, key: str, value: str) -> bool:
        name = key.removesuffix("__m_eq").removesuffix(".ref")
        wanted = value.split(",") if key.endswith("__m_eq") else [value]
        held = entry.get(name)
        if not isinstance(held, dict):
            return str(held) in wanted
        if not all(_OBJECT.fullmatch(each) for each in wanted):
            raise self._no(f"MC_ERR_BAD_QUERY {name} is no reference")
        refs = {held["ref"]}
        if held["ref"].startswith("/volsnaps/"):
            refs.add(self._at(held)["snapshot"]["ref"])
        return not refs.isdisjoint(wanted)

    def _list(self, kind: str) -> list[Json]:
        if kind not in SYSTEM:
            return list(self._objects[kind].values())
        return list(self._system(kind))

    def _system(self, kind: str) -> Iterator[Json]:
        if kind == "system/state":
            yield {
                "id": 1,
                "rest_api_version": self.rest_api_version,
                "iscsi_qualified_target_name": self.target,
            }
        elif kind == "system/net_ips":
            yield {"id": 1, "ip_address": "192.0.2.20", "wan_port": ""}
            yield {"id": 2, "ip_address": "192.0.2.21", "wan_port": ""}
            yield {"id": 3, "ip_address": "192.0.2.99", "wan_port": "wan1"}
        else:
            provisioned = sum(volume["size"] for volume in self._objects["volumes"].values())
            total = self.total_gib * _KIB_PER_GIB
            yield {
                "id": 1,
                "total": total,
                "free": total - len(self.names()) * _KIB_PER_GIB // 4,
                "provisioned": provisioned,
                "provisioned_volumes": provisioned,
            }

    def _at(self, reference: Json) -> Json:
        kind, _, number = reference["ref"].strip("/").rpartition("/")
        try:
            return self._objects[kind][int(number)]
        except KeyError:
            raise self._no(f"MC_ERR_NO_SUCH_OBJECT {reference['ref']}") from None

    def _named(self, kind: str, name: str) -> Json:
        return next(e for e in self._objects[kind].values() if _name(e) == name)

    # -- creating -----------------------------------------------------------------------

    def _create(self, kind: str, body: Json) -> Json:
        if kind == "snapshots":
            return self._create_snapshot(body)
        if kind == "mappings":
            return self._create_mapping(body)
        if kind == "host_iqns":
            if body["iqn"] in {entry["iqn"] for entry in self._list(kind)}:
                raise self._no("MC_ERR_IQN_IN_USE")
            self._at(body["host"])
            return self._add(kind, {**body, "name": body["iqn"]})
        if _name(body) in {_name(entry) for entry in self._list(kind)}:
            raise self._no(f"MC_ERR_NAME_IN_USE {_name(body)}")
        if kind == "volumes":
            self._at(body["volume_group"])
            self._check_room(body["size"])
            disks.sparse_file(self.file(body["name"]), body["size"] << 10)
        return self._add(kind, body)

    def _add(self, kind: str, fields: Json) -> Json:
        number = next(self._numbers)
        entry = {**fields, "id": number, "_kind": kind}
        self._objects[kind][number] = entry
        return entry

    def _check_room(self, more: int) -> None:
        used = sum(volume["size"] for volume in self._objects["volumes"].values())
        if used + more > self.provisionable_gib * _KIB_PER_GIB:
            raise self._no("MC_ERR_EXCEEDS_PROVISIONING_LIMIT")

    def _create_snapshot(self, body: Json) -> Json:
        source = self._at(body["source"])
        name = body["short_name"]
        if name in self.names("snapshots"):
            raise self._no(f"MC_ERR_NAME_IN_USE {name}")
        group = source if source["_kind"] == "volume_groups" else self._at(source["volume_group"])
        if len(self._snapshots_of(group)) >= self.snapshot_limit:
            raise self._no("MC_ERR_TOO_MANY_SNAPSHOTS")
        volumes = [v for v in self._list("volumes") if v["volume_group"] == _ref(group)]
        if not volumes:
            raise self._no("MC_ERR_EMPTY_GROUP")
        copied = volumes[0] if source is group else source
        disks.copy(self.file(_name(copied)), self.file(name))
        made = self._add("snapshots", {**body, "name": name, "volume_group": _ref(group)})
        self._add("volsnaps", {"name": name, "snapshot": _ref(made)})
        return made

    def _snapshots_of(self, group: Json) -> list[Json]:
        return [s for s in self._list("snapshots") if s["volume_group"] == _ref(group)]

    def _create_mapping(self, body: Json) -> Json:
        target, host = self._at(body["volume"]), self._at(body["host"])
        if target["_kind"] == "snapshots":
            if not target.get("is_exposable"):
                raise self._no("MC_ERR_NOT_EXPOSABLE")
            target = next(v for v in self._list("volsnaps") if v["snapshot"] == _ref(target))
        mine = [m for m in self._list("mappings") if m["host"] == _ref(host)]
        if _ref(target) in [mapping["volume"] for mapping in mine]:
            raise self._no("MC_ERR_ALREADY_MAPPED")
        used = {mapping["lun"] for mapping in mine}
        lun = next(number for number in itertools.count(1) if number not in used)
        name = f"{_name(target)} to {host['name']}"
        fields = {"name": name, "volume": _ref(target), "host": _ref(host), "lun": lun}
        return self._add("mappings", fields)

    # -- changing and removing -------------------------------------------------------------

    def _change(self, kind: str, entry: Json, body: Json) -> Json:
        if kind == "volumes" and "size" in body:
            if body["size"] < entry["size"]:
                raise self._no("MC_ERR_CANNOT_SHRINK")
            self._check_room(body["size"] - entry["size"])
            disks.sparse_file(self.file(entry["name"]), body["size"] << 10)
        if kind == "volumes" and "name" in body:
            self.file(entry["name"]).rename(self.file(body["name"]))
        entry.update(body)
        return entry

    def _remove(self, kind: str, entry: Json) -> None:
        if kind == "volume_groups":
            if any(v["volume_group"] == _ref(entry) for v in self._list("volumes")):
                raise self._no("MC_ERR_GROUP_NOT_EMPTY")
            if self._snapshots_of(entry):
                raise self._no("MC_ERR_GROUP_HAS_SNAPSHOTS")
        elif kind == "volumes":
            if self._mappings_of(entry):
                raise self._no("MC_ERR_VOLUME_IS_MAPPED")
            if self._snapshots_of(self._at(entry["volume_group"])):
                raise self._no("MC_ERR_VOLUME_HAS_SNAPSHOTS")
            self.file(entry["name"]).unlink()
        elif kind == "snapshots":
            self._remove_snapshot(entry)
        elif kind == "hosts":
            if any(mapping["host"] == _ref(entry) for mapping in self._list("mappings")):
                raise self._no("MC_ERR_HOST_HAS_MAPPINGS")
            for iqn in self._list("host_iqns"):
                if iqn["host"] == _ref(entry):
                    del self._objects["host_iqns"][iqn["id"]]
        del self._objects[kind][entry["id"]]

    def _remove_snapshot(self, snapshot: Json) -> None:
        if any(s["source"] == _ref(snapshot) for s in self._list("snapshots")):
            raise self._no("MC_ERR_SNAPSHOT_HAS_VIEWS")
        for part in self._list("volsnaps"):
            if part["snapshot"] == _ref(snapshot):
                if self._mappings_of(part):
                    raise self._no("MC_ERR_SNAPSHOT_IS_MAPPED")
                del self._objects["volsnaps"][part["id"]]
        self.file(_name(snapshot)).unlink()

    def _mappings_of(self, target: Json) -> list[Json]:
        return [m for m in self._list("mappings") if m["volume"] == _ref(target)]


def _ref(entry: Json) -> dict[str, Any]:
    return {"ref": f"/{entry['_kind']}/{entry['id']}"}


def _name(entry: Json) -> str:
    return str(entry.get("name") or entry.get("short_name"))
