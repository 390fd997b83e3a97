"""Volumes that are encrypted on the hosts that attach them.

Used by ``Volume`` and ``Connection``.  A volume has encryption specs, as a volume type of
Cinder has; the key is the caller's, given with every attach and stored nowhere: a record,
sealed or not, that holds key and place of the data protects from nobody who reads it.

The record decides whether a LUKS header may be written: only while it says that none ever
was, and only on a blank device.  It says so before anything can be written through it.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from csi_driver.attach import luks
from csi_driver.attach.errors import WrongKey
from csi_driver.cinderlib import session
from csi_driver.cinderlib.exceptions import InvalidVolume
from csi_driver.cinderlib.persistence.records import Encryption

if TYPE_CHECKING:
    from csi_driver.cinderlib.connection import Connection

PROVIDERS = ("luks", "luks2")
DEFAULTS = {"provider": "luks2", "cipher": "aes-xts-plain64", "key_size": 512}

FORMAT_OPTIONS: tuple[str, ...] = ()
"""Further options of ``cryptsetup luksFormat``, as ``("--pbkdf", "pbkdf2")``."""


def specs_of(given: Any, *, multiattach: bool) -> Encryption:
    """The encryption specs that a caller gave.  Pure, but for the new key id.

    :param given: provider, cipher, key_size (bits), control_location; or an Encryption.
    :raises InvalidVolume: they are not such specs, or the volume is multiattach.
    """
    if multiattach:
        raise InvalidVolume("An encrypted volume cannot be multiattach")
    if isinstance(given, Encryption):
        return given
    if not isinstance(given, Mapping):
        raise InvalidVolume(f"{given!r} are no encryption specs")
    known = {*DEFAULTS, "control_location", "key_id"}
    unknown = sorted(set(given) - known)
    if unknown:
        raise InvalidVolume(
            f"There is no encryption spec {', '.join(map(str, unknown))}",
            advice=f"Specs: {', '.join(sorted(known))}",
        )
    specs = {**DEFAULTS, "control_location": "front-end", **given}
    if specs["provider"] not in PROVIDERS:
        raise InvalidVolume(f"The encryption provider is {specs['provider']!r}, not luks or luks2")
    if specs["control_location"] != "front-end":
        raise InvalidVolume(
            "control_location is front-end here: hosts encrypt",
            advice="What an array encrypts by itself needs no specs",
        )
    size = specs["key_size"]
    if isinstance(size, bool) or not isinstance(size, int) or size not in (128, 256, 512):
        raise InvalidVolume(f"key_size is 128, 256 or 512 bits, not {size!r}")
    return Encryption(**{"key_id": str(uuid.uuid4()), **specs})


def opener_of(connection: Connection) -> luks.Opener | None:
    """What opens and closes the volume of a connection; None for one that is not encrypted.

    :raises VolumeNotFound: it is encrypted, and this host does not know the volume.
    """
    if not connection.conn_info.get("data", {}).get("encrypted"):
        return None
    specs = connection.volume._record.encryption
    if specs is None:  # encrypted by the array's driver: not our specs
        return None
    settings = session.current().settings
    return luks.Opener(
        Path(settings.state_path) / "luks" / connection.id,
        specs.provider,
        lock_path=settings.state_path / "locks",
        root_helper=settings.root_helper,
    )


def checked_key(key: Any) -> luks.Key:
    """The key that a caller gave for an encrypted volume.

    :raises InvalidVolume: none, or not bytes or text.
    """
    if not isinstance(key, bytes | str) or not key:
        raise InvalidVolume(
            "The volume is encrypted and needs its key",
            advice="Give key=, bytes or a passphrase; or raw=True for the encrypted bytes",
        )
    return luks.Key(key)


def open_device(connection: Connection, opener: luks.Opener, device: str, key: luks.Key) -> str:
    """Open an attached device, with a new header if the record grants one; answers its path.

    :raises NotEncrypted: the record says that there is a header, and there is none.
    :raises WrongKey: the key does not fit.
    :raises EncryptionFailed: it is not blank where it has to be, or cannot be opened here.
    """
    volume = connection.volume
    volume._reread()
    specs = volume._record.encryption
    assert specs is not None
    if not specs.formatted:
        if luks.has_header(device):
            # A header that was written just before a crash is ours if our key fits.
            if not luks.fits(device, key):
                raise WrongKey(f"{device} has a LUKS header already, and the key does not open it")
        else:
            luks.make_header(
                device,
                key,
                provider=specs.provider,
                cipher=specs.cipher,
                key_size=specs.key_size,
                options=FORMAT_OPTIONS,
            )
        volume._put(encryption=msgspec.structs.replace(specs, formatted=True))
    return opener.open(device, key)
