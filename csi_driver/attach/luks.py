"""LUKS on a device of this host: the header, and opening and closing by os-brick.

Called by the object layer.  os-brick's encryptors format whatever is not LUKS when they
open it; here that is a step of its own (:func:`make_header`), which the caller takes only
if its record says that the volume never had a header, and which refuses a device that is
not blank.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csi_driver.attach import brick, devices
from csi_driver.attach.errors import EncryptionFailed, NotEncrypted, WrongKey
from csi_driver.attach.processes import run
from csi_driver.attach.signatures import signatures
from csi_driver.base.masking import SECRETS

_FORMAT_TIMEOUT_S = 300
_NOT_LUKS = 1
_NO_KEY_FITS = 2


@dataclass(frozen=True)
class Key:
    """A key as os-brick's encryptors take it, in place of a key manager's object.

    Bytes become a passphrase in hexadecimal, as Cinder's keys do; text is one already.
    """

    value: bytes | str

    def get(self, _context: Any, _key_id: str | None) -> Key:
        """The key manager's call: there is one key."""
        return self

    def managed_type(self) -> str:
        """What the key is, in the key manager's words."""
        return "passphrase" if isinstance(self.value, str) else "symmetric"

    def get_encoded(self) -> bytes:
        """The key as bytes."""
        return self.value.encode() if isinstance(self.value, str) else self.value

    @property
    def passphrase(self) -> str:
        """What cryptsetup is given; known to the log's masks from now on."""
        text = self.value if isinstance(self.value, str) else self.value.hex()
        SECRETS.learn(text)
        return text

    def __repr__(self) -> str:
        return "Key(***)"


def has_header(device: str) -> bool:
    """Whether the device carries a LUKS header."""
    return run(["cryptsetup", "isLuks", device], ok=(0, _NOT_LUKS)).returncode == 0


def fits(device: str, key: Key) -> bool:
    """Whether the key opens the device's header; nothing is opened."""
    command = ["cryptsetup", "open", "--test-passphrase", "--key-file=-", device]
    done = run(
        command,
        input=key.passphrase.encode(),
        ok=(0, _NO_KEY_FITS),
        timeout=_FORMAT_TIMEOUT_S,
    )
    return done.returncode == 0


def make_header(
    device: str,
    key: Key,
    *,
    provider: str,
    cipher: str,
    key_size: int,
    options: Sequence[str] = (),
) -> None:
    """Write a LUKS header onto a blank device; what it held is lost.

    :param provider: ``luks`` (version 1) or ``luks2``.
    :param key_size: in bits.
    :param options: further options of ``cryptsetup luksFormat``.
    :raises EncryptionFailed: the device is read-only or not blank; nothing was written.
    :raises CommandFailed: cryptsetup failed.
    """
    devices.read_check(device)
    if devices.is_read_only(device):
        raise EncryptionFailed(
            f"{device} is read-only, and a volume without a LUKS header gets one when attached",
            advice="Attach it for writing once",
        )
    held = signatures(device)
    if held or not devices.edges_are_zero(device):
        what = ", ".join(found.type for found in held) or "data"
        raise EncryptionFailed(
            f"{device} holds {what}, and no LUKS header is written over it",
            advice="Find out whose data it is; a volume that is to be encrypted is new and empty",
        )
    version = "luks1" if provider == "luks" else "luks2"
    run(
        [
            *("cryptsetup", "--batch-mode", "luksFormat", "--type", version, "--key-file=-"),
            *("--cipher", cipher, "--key-size", str(key_size), *options, device),
        ],
        input=key.passphrase.encode(),
        timeout=_FORMAT_TIMEOUT_S,
    )
    devices.flush(device)


class Opener:
    """Opens and closes one device through os-brick.

    :param link: a path of our own for the device.  os-brick replaces the path that it is
        given by a link to what is open, and names that ``crypt-NAME`` after it.
    """

    def __init__(self, link: Path, provider: str, *, lock_path: Path, root_helper: str) -> None:
        self._link = link
        self._provider = provider
        self._lock_path = lock_path
        self._root_helper = root_helper

    @property
    def path(self) -> str:
        """The device with the plain data, while it is open."""
        return f"/dev/mapper/crypt-{self._link.name}"

    def open(self, device: str, key: Key) -> str:
        """Open a device with a header; answers :attr:`path`.

        :raises NotEncrypted: it has no header; nothing was written.
        :raises WrongKey: the key does not fit.
        :raises EncryptionFailed: it cannot be opened here.
        """
        if not has_header(device):
            raise NotEncrypted(f"{device} has no LUKS header")
        # Open already: from an attach that died before it was recorded.
        self.close()
        self._link.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._link.unlink(missing_ok=True)
        self._link.symlink_to(Path(device).resolve())
        SECRETS.learn(key.passphrase)
        try:
            self._encryptor(key).attach_volume(None)
        except Exception as error:
            self._link.unlink(missing_ok=True)
            # Asked here, since cryptsetup complains of a kernel without dm-crypt first.
            if not fits(device, key):
                raise WrongKey(f"The key does not open {device}") from error
            raise EncryptionFailed(f"{device} cannot be opened: {_said(error)}") from error
        return self.path

    def close(self) -> None:
        """Close the device; nothing happens when it is not open.

        :raises EncryptionFailed: it is in use.
        """
        if not self._link.is_symlink() and not Path(self.path).exists():
            return
        try:
            self._encryptor(Key("")).detach_volume()
        except Exception as error:
            raise EncryptionFailed(
                f"{self.path} cannot be closed: {_said(error)}",
                advice="Unmount what is on it first",
            ) from error
        with contextlib.suppress(FileNotFoundError):
            self._link.unlink()

    def _encryptor(self, key: Key) -> Any:
        brick.prepare(self._lock_path, self._root_helper)
        from os_brick.encryptors import luks

        kind = luks.LuksEncryptor if self._provider == "luks" else luks.Luks2Encryptor
        made = kind(
            root_helper=self._root_helper,
            connection_info={
                "driver_volume_type": "local",
                "data": {"device_path": str(self._link)},
            },
            keymgr=key,
        )
        made._format_volume = _never_format
        return made


def _said(error: Exception) -> str:
    text = " ".join(str(getattr(error, "stderr", "") or error).split())
    return SECRETS.mask(text)[:400].rstrip(".")


def _never_format(*_: Any, **__: Any) -> None:
    raise NotEncrypted("The device has lost its LUKS header; nothing was written")
