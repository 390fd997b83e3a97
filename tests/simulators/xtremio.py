"""An XtremIO Management Server (XMS) as Cinder's driver sees it, with one cluster.

Serves versions 1 and 2 of the REST interface; the driver chooses by the versions of cluster
and XMS.  What is refused, and with which words, is what the driver knows of the array; the
rest is what any array enforces: unique names, no deletion of what is mapped, capacity.
Snapshots and clones are volumes; ``contents`` says what would be read from each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tests.simulators.server import Answer, Array, Json, Refusal, Request

LOGIN = ("xtremio_user", "xtremio_password")
CLUSTER = "xtremio_cluster"

TYPES = (
    "volumes",
    "snapshot-sets",
    "initiators",
    "initiator-groups",
    "lun-maps",
    "consistency-groups",
)

_PATH = re.compile(r"/api/json/(v2/)?types/([a-z-]+)(?:/(\d+))?")
_KIB_PER_GIB = 1 << 20


class XtremIO(Array):
    """The array.

    :param version: of the cluster and its XMS.
    :param snapshot_limit: snapshots and clones that one volume may have.
    """

    def __init__(
        self,
        version: str = "4.2.1-5",
        *,
        total_gib: int = 1000,
        provisionable_gib: int = 20_000,
        snapshot_limit: int = 512,
    ) -> None:
        super().__init__(LOGIN)
        self._objects: dict[str, dict[int, Json]] = {kind: {} for kind in TYPES}
        self._number = 0
        self.version = version
        self.total_gib = total_gib
        self.provisionable_gib = provisionable_gib
        self.snapshot_limit = snapshot_limit
        self.chap = "disabled"
        self.portals = ["192.0.2.10", "192.0.2.11"]
        self.contents: dict[str, str] = {}

    # -- what a test sees ---------------------------------------------------------------

    def names(self, kind: str = "volumes") -> set[str]:
        """The names of the objects of a kind."""
        with self.state:
            return {entry["name"] for entry in self._objects[kind].values()}

    def everything(self) -> dict[str, set[str]]:
        """The names of all that is there, by kind; kinds without objects are left out."""
        return {kind: self.names(kind) for kind in TYPES if self.names(kind)}

    def size_gib(self, name: str) -> float:
        """The size of a volume."""
        with self.state:
            return float(self._get("volumes", name)["vol-size"]) / _KIB_PER_GIB

    def mapped_to(self, volume: str) -> set[str]:
        """The initiator groups that see a volume."""
        with self.state:
            return {m["ig-name"] for m in self._list("lun-maps") if m["vol-name"] == volume}

    def write(self, name: str, content: str) -> None:
        """Write to a volume, as a host would."""
        with self.state:
            self._get("volumes", name)
            self.contents[name] = content

    def vanish(self, name: str) -> None:
        """Take a volume away with all its mappings, as an administrator would."""
        with self.state:
            self._drop_mappings("vol-name", name)
            self._delete_volume(self._get("volumes", name))

    # -- requests ---------------------------------------------------------------------

    def resource(self, path: str) -> str:
        found = _PATH.fullmatch(path)
        return found[2] if found else path

    def refusal(self, message: str) -> Answer:
        return Answer(400, {"message": message, "error_code": 400})

    def work(self, request: Request) -> Answer:
        found = _PATH.fullmatch(request.path)
        if found is None:
            raise Refusal(Answer(404, {"message": "not_found"}))
        second, kind, index = bool(found[1]), found[2], int(found[3] or 0)
        if second and self.version < "4":
            raise Refusal(Answer(404, {"message": "not_found"}))
        self._check_cluster(request)
        name = request.query.get("name", [""])[0]
        if request.method == "GET":
            return Answer(200, self._read(kind, index, name, request.query))
        if request.method == "POST":
            return self._create(kind, request.body)
        target = self._find(kind, index, name)
        if request.method == "PUT":
            self._change(kind, target, request.body)
        else:
            self._remove(kind, target)
        return Answer(200)

    def _no(self, message: str) -> Refusal:
        return Refusal(self.refusal(message))

    def _check_cluster(self, request: Request) -> None:
        named = request.query.get("cluster-name", [CLUSTER])[0], request.body.get("cluster-id")
        if named[0] != CLUSTER or named[1] not in (None, CLUSTER):
            raise self._no("cluster_obj_not_found")

    # -- reading -----------------------------------------------------------------------

    def _read(self, kind: str, index: int, name: str, query: dict[str, list[str]]) -> Json:
        if index or name:
            return {"content": self._find(kind, index, name)}
        entries = [e for e in self._list(kind) if _matches(e, query.get("filter", []))]
        if "full" in query:
            return {kind: entries}
        return {kind: [{"name": e["name"], "href": self._href(kind, e)} for e in entries]}

    def _find(self, kind: str, index: int, name: str) -> Json:
        for entry in self._list(kind):
            if entry["index"] == index or (not index and entry["name"] == name):
                return entry
        raise self._no("vol_obj_not_found" if kind == "volumes" else "obj_not_found")

    def _list(self, kind: str) -> list[Json]:
        """The objects of a kind, with what the array computes of them."""
        if kind == "clusters":
            return [self._cluster()]
        if kind == "xms":
            return [{"name": "xms", "index": 1, "sw-version": self.version}]
        if kind == "iscsi-portals":
            return list(self._portals())
        if kind not in self._objects:
            raise Refusal(Answer(404, {"message": "not_found"}))
        return [self._shown(kind, entry) for entry in self._objects[kind].values()]

    def _shown(self, kind: str, entry: Json) -> Json:
        mappings = self._objects["lun-maps"].values()
        if kind == "volumes":
            entry["lun-mapping-list"] = [
                [m["ig-oid"], None, m["lun"]] for m in mappings if m["vol-index"] == entry["index"]
            ]
            entry["num-of-dest-snaps"] = len(self._descendants(entry))
        elif kind == "initiator-groups":
            entry["num-of-vols"] = sum(m["ig-name"] == entry["name"] for m in mappings)
        elif "members" in entry:
            volumes = self._objects["volumes"]
            entry["vol-list"] = [_oid(volumes[index]) for index in entry["members"]]
        return entry

    def _cluster(self) -> Json:
        sizes = [int(volume["vol-size"]) for volume in self._objects["volumes"].values()]
        return {
            "name": CLUSTER,
            "index": 1,
            "sys-sw-version": self.version,
            "ud-ssd-space": str(self.total_gib * _KIB_PER_GIB),
            "ud-ssd-space-in-use": str(len(self.contents) * _KIB_PER_GIB),
            "vol-size": str(sum(sizes)),
            "chap-authentication-mode": self.chap,
            "chap-discovery-mode": "disabled",
        }

    def _portals(self) -> Iterator[Json]:
        for number, address in enumerate(self.portals, 1):
            yield {
                "name": f"X1-SC{number}-iscsi1",
                "index": number,
                "ip-addr": f"{address}/24",
                "ip-port": 3260,
                "port-address": f"iqn.2008-05.com.xtremio:{number:03}",
            }

    def _get(self, kind: str, name: str) -> Json:
        return self._find(kind, 0, name)

    def _descendants(self, volume: Json) -> list[Json]:
        found = self._objects["volumes"].values()
        return [
            v for v in found if v["ancestor-vol-id"] and v["ancestor-vol-id"][2] == volume["index"]
        ]

    # -- creating -----------------------------------------------------------------------

    def _create(self, kind: str, body: Json) -> Answer:
        made = {
            "volumes": self._create_volume,
            "snapshots": self._create_snapshots,
            "initiator-groups": self._create_group,
            "initiators": self._create_initiator,
            "lun-maps": self._create_mapping,
            "consistency-groups": self._create_consistency_group,
            "consistency-group-volumes": self._join_consistency_group,
        }[kind](body)
        kind = "volumes" if kind == "snapshots" else kind
        return Answer(201, {"links": [{"href": self._href(kind, e), "rel": "self"} for e in made]})

    def _href(self, kind: str, entry: Json) -> str:
        return f"https://{self.address}/api/json/types/{kind}/{entry['index']}"

    def _add(self, kind: str, name: str, **fields: Any) -> Json:
        self._number += 1
        entry = {"name": name, "index": self._number, **fields}
        self._objects[kind][self._number] = entry
        return entry

    def _create_volume(self, body: Json) -> list[Json]:
        return [self._new_volume(body["vol-name"], _kib(body["vol-size"]), None)]

    def _new_volume(self, name: str, size: int, ancestor: Json | None) -> Json:
        if name in self.names():
            raise self._no("vol_obj_name_not_unique")
        self._check_room(size)
        return self._add(
            "volumes",
            name,
            **{"vol-size": str(size), "ancestor-vol-id": _oid(ancestor) if ancestor else []},
        )

    def _check_room(self, more: int) -> None:
        if int(self._cluster()["vol-size"]) + more > self.provisionable_gib * _KIB_PER_GIB:
            raise self._no("vol_size_exceeds_cluster_limit")

    def _create_snapshots(self, body: Json) -> list[Json]:
        if "snap-vol-name" in body:  # version 1
            sources = [self._get("volumes", body["ancestor-vol-id"])]
            return [self._snapshot(sources[0], body["snap-vol-name"])]
        if "consistency-group-id" in body:
            group = self._get("consistency-groups", body["consistency-group-id"])
            sources = [self._objects["volumes"][index] for index in group["members"]]
        else:
            sources = [self._get("volumes", name) for name in body["volume-list"]]
        suffix = body.get("snap-suffix", f".{self._number}")
        made = [self._snapshot(source, source["name"] + suffix) for source in sources]
        self._add("snapshot-sets", body["snapshot-set-name"], members=[v["index"] for v in made])
        return made

    def _snapshot(self, source: Json, name: str) -> Json:
        if len(self._descendants(source)) >= self.snapshot_limit:
            raise self._no("too_many_snapshots_per_vol")
        made = self._new_volume(name, int(source["vol-size"]), source)
        self.contents[name] = self.contents.get(source["name"], "")
        return made

    def _create_group(self, body: Json) -> list[Json]:
        if body["ig-name"] in self.names("initiator-groups"):
            raise self._no("ig_name_not_unique")
        group = self._add("initiator-groups", body["ig-name"])
        group["ig-id"] = _oid(group)
        return [group]

    def _create_initiator(self, body: Json) -> list[Json]:
        if body["port-address"] in {i["port-address"] for i in self._list("initiators")}:
            raise self._no("port_address_not_unique")
        group = self._get("initiator-groups", body["ig-id"])
        initiator = self._add(
            "initiators",
            body["initiator-name"],
            **{
                "port-address": body["port-address"],
                "ig-id": _oid(group),
                "chap-authentication-initiator-password": None,
                "chap-discovery-initiator-password": None,
            },
        )
        self._set_secrets(initiator, body)
        return [initiator]

    def _create_mapping(self, body: Json) -> list[Json]:
        group = self._get("initiator-groups", body["ig-id"])
        volume = self._get("volumes", body["vol-id"])
        mappings = self._list("lun-maps")
        name = f"{volume['index']}_{group['index']}_1"
        if name in {mapping["name"] for mapping in mappings}:
            raise self._no("already_mapped")
        used = {m["lun"] for m in mappings if m["ig-name"] == group["name"]}
        fields = {
            "lun": body.get("lun") or next(n for n in range(1, 16384) if n not in used),
            "ig-name": group["name"],
            "ig-oid": _oid(group),
            "vol-name": volume["name"],
            "vol-index": volume["index"],
        }
        return [self._add("lun-maps", name, **fields)]

    def _create_consistency_group(self, body: Json) -> list[Json]:
        volumes = [self._get("volumes", name) for name in body.get("vol-list", [])]
        name = body["consistency-group-name"]
        return [self._add("consistency-groups", name, members=[v["index"] for v in volumes])]

    def _join_consistency_group(self, body: Json) -> list[Json]:
        group = self._get("consistency-groups", body["cg-id"])
        group["members"].append(self._get("volumes", body["vol-id"])["index"])
        return [group]

    # -- changing and removing -------------------------------------------------------------

    def _change(self, kind: str, target: Json, body: Json) -> None:
        name = body.get("name") or body.get("vol-name")
        if name and name != target["name"]:
            if name in self.names(kind):
                raise self._no("vol_obj_name_not_unique")
            self.contents[name] = self.contents.pop(target["name"], "")
            target["name"] = name
        if "vol-size" in body:
            size = _kib(body["vol-size"])
            if size < int(target["vol-size"]):
                raise self._no("vol_cannot_be_shrunk")
            self._check_room(size - int(target["vol-size"]))
            target["vol-size"] = str(size)
        self._set_secrets(target, body)

    def _set_secrets(self, target: Json, body: Json) -> None:
        for use in ("authentication", "discovery"):
            if f"initiator-{use}-password" in body:
                target[f"chap-{use}-initiator-password"] = body[f"initiator-{use}-password"]

    def _remove(self, kind: str, target: Json) -> None:
        if kind == "volumes":
            if target["lun-mapping-list"]:
                raise self._no("vol_is_mapped")
            self._delete_volume(target)
            return
        if kind == "snapshot-sets":
            for _, _, index in target["vol-list"]:
                self._delete_volume(self._objects["volumes"][index])
            return
        if kind == "initiator-groups":
            if target["num-of-vols"]:
                raise self._no("ig_is_mapped")
            for index, initiator in list(self._objects["initiators"].items()):
                if initiator["ig-id"][2] == target["index"]:
                    del self._objects["initiators"][index]
        del self._objects[kind][target["index"]]

    def _delete_volume(self, volume: Json) -> None:
        del self._objects["volumes"][volume["index"]]
        self.contents.pop(volume["name"], None)
        for kind in ("snapshot-sets", "consistency-groups"):
            for index, owner in list(self._objects[kind].items()):
                owner["members"] = [m for m in owner["members"] if m != volume["index"]]
                if kind == "snapshot-sets" and not owner["members"]:
                    del self._objects[kind][index]

    def _drop_mappings(self, key: str, value: str) -> None:
        for index, mapping in list(self._objects["lun-maps"].items()):
            if mapping[key] == value:
                del self._objects["lun-maps"][index]


def _oid(entry: Json) -> list[Any]:
    return ["guid", entry["name"], entry["index"]]


def _kib(size: str) -> int:
    """A size as the driver gives it, in whole GiB ("3g")."""
    return int(size.removesuffix("g")) * _KIB_PER_GIB


def _matches(entry: Json, filters: list[str]) -> bool:
    """Whether all filters hold; a filter holds when one of its alternatives does."""
    return all(
        any(
            str(entry[key]) == value
            for key, value in (alternative.split(":eq:") for alternative in each.split(","))
        )
        for each in filters
    )
