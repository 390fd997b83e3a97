"""Writes a secret into open-iscsi's records, where ``iscsiadm`` would want it as an argument.

Called by :mod:`csi_driver.attach.iscsi_connector`.  ``iscsiadm --op update -v PASSWORD``
is the only way that iscsiadm has, and everybody on the host can read the arguments
of a process.  What the command does is to change lines of a text file that only root
may read, so that is done here: one line ``name = value`` per field, the file replaced
as a whole.  iscsiadm has no other copy; it reads the record anew at each login.

Callers hold os-brick's lock of the target and portal, as they do for iscsiadm.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path

from csi_driver.attach.errors import AttachFailed
from csi_driver.base import files
from csi_driver.base.errors import StateDirectoryError

DATABASES = (Path("/etc/iscsi"), Path("/var/lib/iscsi"))
"""Where open-iscsi keeps its records: Debian's place, then that of the other distributions."""

_END = "# END RECORD"


def write_node_secret(portal: str, iqn: str, field: str, value: str) -> None:
    """Set a field in the records of a target at a portal, for every interface.

    :param portal: ``ADDRESS:PORT``, an IPv6 address in brackets.
    :raises AttachFailed: there is no such record, or it cannot be written.
    """
    name = _portal_name(portal)
    found = [
        record
        for database in DATABASES
        for place in _entries(database / "nodes" / iqn)
        # Its name ends with the portal group where that is known.
        if place.name == name or place.name.startswith(f"{name},")
        # A record is a file, or a directory with one for each interface.
        for record in (_entries(place) if place.is_dir() else [place])
    ]
    _write(found, field, value, f"{iqn} at {portal}")


def write_discovery_secret(portal: str, field: str, value: str) -> None:
    """Set a field in the sendtargets record of a portal.

    :raises AttachFailed: there is no such record, or it cannot be written.
    """
    places = [base / "send_targets" / _portal_name(portal) / "st_config" for base in DATABASES]
    found = [record for record in places if record.is_file()]
    _write(found, field, value, f"discovery at {portal}")


def with_field(record: str, field: str, value: str) -> str:
    """The record with the field set: its line replaced, or added where there is none."""
    line = f"{field} = {value}"
    lines = record.splitlines()
    places = [n for n, old in enumerate(lines) if old.partition("=")[0].strip() == field]
    if places:
        lines[places[0]] = line
    else:
        lines.insert(lines.index(_END) if _END in lines else len(lines), line)
    return "\n".join(lines) + "\n"


def _portal_name(portal: str) -> str:
    address, _, port = portal.split(",")[0].rpartition(":")
    return f"{address.strip('[]')},{port}"


def _entries(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []


def _write(records: Sequence[Path], field: str, value: str, what: str) -> None:
    if len(value.splitlines()) > 1:
        raise AttachFailed(f"The secret for {what} has more than one line")
    if not records:
        raise AttachFailed(
            f"open-iscsi has no record of {what} below {' or '.join(map(str, DATABASES))}",
            advice="The node plugin must see the directory in which iscsiadm keeps its records",
        )
    for record in records:
        # Made elsewhere: iscsiadm takes every file beside a record for another record.
        temporary = _database_of(record) / f".cinder-csi-{uuid.uuid4()}"
        try:
            files.write_atomic(temporary, with_field(record.read_text(), field, value).encode())
            os.replace(temporary, record)
        except (OSError, StateDirectoryError) as error:
            raise AttachFailed(f"The record of {what} cannot be written: {error}") from error


def _database_of(record: Path) -> Path:
    return next(database for database in DATABASES if database in record.parents)
