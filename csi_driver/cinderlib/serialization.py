"""Objects as JSON and back, for programs that keep or send them themselves.

``Volume``, ``Snapshot``, ``Connection`` and ``Backend`` are :class:`Serializable`;
:func:`load` makes an object of whatever JSON it is given, and the functions beside it
write everything of every backend.  A document is::

    {"class": "Volume", "format": 1, "backend": {"volume_backend_name": "lvm"},
     "record": {...}, "snapshots": [...], "connections": [...]}

``record`` is what stores keep, without its version there; fields that a newer program
put into it survive.  A ``format`` above :data:`FORMAT` is refused.  Documents hold what
using the object takes, credentials of targets included, but not the backend's options
unless setup's ``output_all_backend_info`` says so.
"""

from __future__ import annotations

import datetime
import difflib
import importlib
import json as json_lib
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, cast

import msgspec

from csi_driver.base.masking import SECRETS
from csi_driver.cinderlib import session
from csi_driver.cinderlib.exceptions import InvalidJSON
from csi_driver.cinderlib.persistence import codec
from csi_driver.cinderlib.persistence.store import StoreCorrupt

if TYPE_CHECKING:
    from csi_driver.cinderlib.backend import Backend
    from csi_driver.cinderlib.entity import Entity

FORMAT = 1
"""The format of documents that this version writes, and the newest that it reads."""

_HOMES = {
    "Backend": "backend",
    "Volume": "volume",
    "Snapshot": "snapshot",
    "Connection": "connection",
    "Group": "group",
    "GroupSnapshot": "group_snapshot",
}


class Children(Enum):
    """Which children go into a document."""

    NONE = "none"
    LOADED = "loaded"
    ALL = "all"


class Serializable:
    """What every object has to be written as JSON."""

    LAZY_PROPERTIES: ClassVar[tuple[str, ...]] = ()
    """The properties that are read from the store at their first use."""

    def document(self, children: Children) -> dict[str, Any]:
        """The object as plain JSON types."""
        raise NotImplementedError

    def to_json(self, simplified: bool = True) -> dict[str, Any]:
        """The object as a dictionary; ``simplified`` leaves its children out."""
        return self.document(Children.NONE if simplified else Children.LOADED)

    def to_jsons(self, simplified: bool = True) -> str:
        """The object as JSON text; ``simplified`` leaves its children out."""
        return _text(self.to_json(simplified))

    @property
    def json(self) -> dict[str, Any]:
        """The object as a dictionary, with the children that were read already."""
        return self.to_json(simplified=False)

    @property
    def jsons(self) -> str:
        """:attr:`json` as text."""
        return _text(self.json)

    @property
    def dump(self) -> dict[str, Any]:
        """The object as a dictionary, with all its children."""
        return self.document(Children.ALL)

    @property
    def dumps(self) -> str:
        """:attr:`dump` as text."""
        return _text(self.dump)


# -- everything ----------------------------------------------------------------


def json() -> list[dict[str, Any]]:
    """Every backend of the process with its volumes; of these, what was read already."""
    return [backend.json for backend in _backends()]


def jsons() -> str:
    """:func:`json` as text."""
    return _text(json())


def dump() -> list[dict[str, Any]]:
    """Every backend of the process with all that is recorded of it."""
    return [backend.dump for backend in _backends()]


def dumps() -> str:
    """:func:`dump` as text."""
    return _text(dump())


def load(json_src: str | bytes | Mapping[str, Any] | list[Any], save: bool = False) -> Any:
    """The object that a document tells of, or for a list of documents their objects.

    Nothing is stored unless ``save`` says so, and then the document wins over what
    the store has.  Without it an object is stored when something is done with it.

    :param json_src: JSON text, or what it stands for.
    :raises InvalidJSON: it is not what this library writes (also a ValueError).
    :raises BackendNotFound: the backend is not loaded, and its options are not there.
    """
    source = _parsed(json_src)
    if isinstance(source, list):
        made = [_object(one, None) for one in source]
    else:
        made = [_object(source, None)]
    if save:
        _save(made)
    return made if isinstance(source, list) else made[0]


def load_as(wanted: type[Any], name: str, json_src: Any, save: bool) -> Any:
    """:func:`load` for one object of one class, whose public name is ``name``."""
    source = _parsed(json_src)
    if isinstance(source, Mapping) and source.get("class", name) != name:
        raise InvalidJSON(
            f"This is the JSON of a {source['class']}, not of a {name}",
            advice="csi_driver.cinderlib.load() takes all classes",
        )
    made = _object(source, wanted)
    if save:
        _save([made])
    return made


def load_backend(json_src: str | bytes | Mapping[str, Any]) -> Backend:
    """The backend that a document names: the loaded one, or made from its options.

    Its name, when setup's ``fail_on_missing_backend`` is off.

    :param json_src: a backend's ``config``, or any object's document.
    :raises BackendNotFound: it is not loaded, and its options are not there.
    :raises InvalidJSON: no backend is named.
    """
    from csi_driver.cinderlib.backend import Backend

    source = _parsed(json_src)
    config = source.get("backend", source) if isinstance(source, Mapping) else None
    name = config.get("volume_backend_name") if isinstance(config, Mapping) else None
    if not isinstance(name, str) or not name or not isinstance(config, Mapping):
        raise InvalidJSON("The JSON names no volume_backend_name")
    known = Backend.backends.get(name)
    if known is not None:
        return known
    if len(config) > 1:
        return Backend(**config)
    if session.current().options.fail_on_missing_backend:
        return Backend.named(name)
    return name  # type: ignore[return-value] # as in cinderlib, asked for by the option


# -- documents -----------------------------------------------------------------


def entity_document(entity: Entity[Any], name: str, children: Mapping[str, Any]) -> dict[str, Any]:
    """The document of an entity; ``children`` by the names of their properties."""
    from csi_driver.cinderlib.backend import Backend

    record = json_lib.loads(codec.encode(entity._record))
    record.pop("version", None)
    backend = Backend.backends.get(entity._record.backend)
    document = {
        "class": name,
        "format": FORMAT,
        "backend": backend.config if backend else {"volume_backend_name": entity._record.backend},
        "record": {**record, **entity._edits},
    }
    if entity._deleted_at:
        document["deleted_at"] = entity._deleted_at.timestamp()
    for part, found in children.items():
        if isinstance(found, list):
            document[part] = [child.document(Children.NONE) for child in found]
        else:
            document[part] = found.document(Children.NONE)
    return document


def plain(value: Any) -> Any:
    """A field as plain JSON types; times become ISO 8601 text."""
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return value


def _object(document: Any, wanted: type[Any] | None) -> Any:
    if not isinstance(document, Mapping):
        raise InvalidJSON(f"An object is a JSON object, not {type(document).__name__}")
    name = str(document.get("class"))
    if name not in _HOMES:
        near = difflib.get_close_matches(name.capitalize(), _HOMES, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(_HOMES)}"
        raise InvalidJSON(f"There is no class {document.get('class')!r}", advice=hint)
    _check_format(document)
    home = importlib.import_module(f"csi_driver.cinderlib.{_HOMES[name]}")
    cls = wanted or getattr(home, name)
    backend = load_backend(document)
    if name == "Backend":
        volumes = [_object(volume, None) for volume in _list(document, "volumes")]
        if volumes and isinstance(backend, cls):
            cast(Any, backend)._volumes.fill(volumes)
        groups = [_object(group, None) for group in _list(document, "groups")]
        if isinstance(backend, cls):
            cast(Any, backend)._loaded_groups = groups
        return backend
    return _entity(cls, document)


def _entity(cls: type[Any], document: Mapping[str, Any]) -> Any:
    deleted_at = document.get("deleted_at")
    if deleted_at is not None and not isinstance(deleted_at, (int, float)):
        raise InvalidJSON(f"deleted_at is a number, not {deleted_at!r}")
    made = cls._of_document(_record(cls, document.get("record")), deleted_at)
    for part in cls.LAZY_PROPERTIES:
        if part not in document:
            continue
        if part == "volume":
            children: Any = _object(document[part], None)
        else:
            children = [_object(child, None) for child in _list(document, part)]
            for child in children:
                child._lazy["volume"].fill(made)
        made._lazy[part].fill(children)
    return made


def _record(cls: type[Any], found: Any) -> Any:
    kind = cls._RECORD
    if not isinstance(found, Mapping):
        raise InvalidJSON(f"The JSON of a {kind.KIND} has no record")
    # Now, not when it is stored: an error on the way may quote it.
    SECRETS.learn_named(found)
    body = {key: value for key, value in found.items() if key != "version"}
    try:
        return codec.decode(kind, json_lib.dumps(body))
    except (StoreCorrupt, TypeError, ValueError) as error:
        told = error.__cause__ or error
        raise InvalidJSON(f"The record of a {kind.KIND} cannot be understood: {told}") from error


def _check_format(document: Mapping[str, Any]) -> None:
    if "ovo" in document:
        raise InvalidJSON(
            "This JSON was written by cinderlib, whose objects are others",
            advice="Adopt its volumes by managing them, see docs/manage.md",
        )
    number = document.get("format")
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise InvalidJSON(f"The JSON has no format, a whole number, but {number!r}")
    if number > FORMAT:
        raise InvalidJSON(
            f"The JSON has format {number}, and this version reads up to {FORMAT}",
            advice="Load it with the version that wrote it, or a newer one",
        )


def _parsed(source: Any) -> Any:
    if not isinstance(source, (str, bytes, bytearray)):
        return source
    try:
        return json_lib.loads(source)
    except ValueError as error:
        raise InvalidJSON(f"This is not JSON: {error}") from error


def _list(document: Mapping[str, Any], part: str) -> list[Any]:
    found = document.get(part, [])
    if not isinstance(found, list):
        raise InvalidJSON(f"{part} is a list, not {type(found).__name__}")
    return found


# -- storing what was loaded ---------------------------------------------------


def _save(objects: list[Any]) -> None:
    entities = [entity for found in objects for entity in _with_children(found)]
    deleted = [entity for entity in entities if entity._gone]
    if deleted:
        raise InvalidJSON(
            f"{', '.join(map(repr, deleted))}: deleted when the JSON was written",
            advice="Load it without save",
        )
    for entity in entities:
        with entity._exclusively():
            found = entity._stored_record()
            version = found.version if found is not None else 0
            wanted = msgspec.structs.replace(entity._record, version=version)
            if wanted != found:
                entity._keep(wanted)
            else:
                entity._read()


def _with_children(found: Any) -> list[Any]:
    """The entities of one loaded object: volumes before what belongs to them."""
    from csi_driver.cinderlib.backend import Backend

    if isinstance(found, str):
        return []
    if isinstance(found, Backend):
        volumes = found._volumes() if found._volumes.loaded else []
        inside = [entity for volume in volumes for entity in _with_children(volume)]
        return [*found._loaded_groups, *inside]
    before, after = [], []
    for part in found.LAZY_PROPERTIES:
        lazy = found._lazy[part]
        if lazy.loaded and part == "volume":
            before.append(lazy())
        elif lazy.loaded:
            after += lazy()
    return [entity for entity in (*before, found, *after) if entity.only_loaded or entity is found]


def _backends() -> list[Any]:
    from csi_driver.cinderlib.backend import Backend

    return list(Backend.backends.values())


def _text(document: Any) -> str:
    return json_lib.dumps(document, separators=(",", ":"))
