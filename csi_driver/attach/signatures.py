"""What a device says it holds: blkid and wipefs asked, and made to agree.

Used through :mod:`csi_driver.attach.devices`.  Two programs are asked because each has a blind
side: blkid names the one thing that it believes in and may answer "nothing" when
it could not read; wipefs lists every magic it finds, believed or not.  An answer
counts only where both agree that there is nothing, or that there is the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from csi_driver.attach.errors import AmbivalentSignatures, CommandFailed, DeviceReadError
from csi_driver.attach.processes import run

_BLKID_NOTHING = 2
_BLKID_AMBIVALENT = 8


@dataclass(frozen=True)
class Signature:
    """One magic on a device.

    ``usage`` is libblkid's: ``filesystem``, ``raid``, ``crypto``, ``other`` or
    ``partition-table``; ``uuid`` and ``label`` are '' where there are none.
    """

    type: str
    usage: str
    uuid: str = ""
    label: str = ""


def signatures(path: str) -> tuple[Signature, ...]:
    """Everything that the device says it holds; empty when both probes see nothing.

    Prove the device readable first: the probes skip over what they cannot read.

    :raises AmbivalentSignatures: the probes contradict each other or themselves.
    :raises DeviceReadError: a probe could not read the device.
    """
    try:
        # Both at once: most of their time they start. Leaving the block waits for both.
        with ThreadPoolExecutor(1, "wipefs") as beside:
            columns = "TYPE,USAGE,UUID,LABEL"
            asked = beside.submit(run, ["wipefs", "--no-act", "--json", "-O", columns, "--", path])
            blkid = run(
                ["blkid", "-p", "-o", "export", "--", path],
                ok=(0, _BLKID_NOTHING, _BLKID_AMBIVALENT),
            )
            wipefs = asked.result()
    except CommandFailed as error:
        raise DeviceReadError(f"{path} cannot be probed: {error.message}") from error
    if blkid.returncode == _BLKID_AMBIVALENT:
        raise AmbivalentSignatures(f"{path} shows several contradicting signatures to blkid")
    return agree(path, _parse_blkid(blkid.stdout), _parse_wipefs(wipefs.stdout))


def agree(path: str, believed: str, found: Sequence[Signature]) -> tuple[Signature, ...]:
    """The signatures, when what blkid believes in is among what wipefs found.

    :param believed: the type that blkid names; '' when it sees nothing.
    :raises AmbivalentSignatures: it is not.
    """
    types = [signature.type for signature in found]
    if believed not in (types or [""]):
        raise AmbivalentSignatures(
            f"{path} holds {believed or 'nothing'} to blkid and"
            f" {', '.join(types) or 'nothing'} to wipefs"
        )
    return tuple(sorted(found, key=lambda signature: signature.type != believed))


def _parse_blkid(text: str) -> str:
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return fields.get("TYPE") or fields.get("PTTYPE", "")


def _parse_wipefs(text: str) -> tuple[Signature, ...]:
    rows: Sequence[Mapping[str, str | None]] = (
        json.loads(text).get("signatures", []) if text.strip() else []
    )
    found = (
        Signature(
            type=row.get("type") or "",
            usage=row.get("usage") or "",
            uuid=row.get("uuid") or "",
            label=row.get("label") or "",
        )
        for row in rows
    )
    # One signature may have several magics (gpt: both ends); it is told once.
    return tuple(dict.fromkeys(found))
