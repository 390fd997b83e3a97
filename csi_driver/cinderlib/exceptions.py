"""Exceptions of the object layer, for programs that use it and for ``rpc.errors``.

Errors of a storage driver are not among them: they pass through as the driver
raised them, and :mod:`csi_driver.cinderlib.failures` says what they mean.  The
names that cinderlib users know (NotFound, InvalidVolume, NotLocal, ...) are kept.
"""

from __future__ import annotations

from csi_driver.base.errors import CinderCSIError, ConfigurationError


class SetupConflict(CinderCSIError):
    """The process is set up for Cinder in another way, or can no longer be."""

    advice = "Call setup() once, with one set of settings, before anything imports cinder"


class NotSetUp(CinderCSIError):
    """A driver is needed before :func:`csi_driver.cinderlib.setup` was called."""

    advice = "Call csi_driver.cinderlib.setup() first"


class UnknownDriver(ConfigurationError):
    """The driver class of a backend cannot be imported."""

    advice = "volume_driver is the full name of a Cinder driver class"


class UnknownOption(ConfigurationError):
    """A backend is given an option that its driver does not have."""


class InvalidOption(ConfigurationError):
    """The value of a backend's option is missing or not of the option's type."""


class MissingPackage(ConfigurationError):
    """A driver needs a vendor's Python package that is not here, or of another version."""

    advice = "Install the vendor's package beside this one"


class UnsupportedDriver(ConfigurationError):
    """Cinder calls the driver unsupported, and nobody said that this is known."""

    advice = (
        "Cinder has no tests of it any more and may remove it; set enable_unsupported_driver"
        " to use it all the same"
    )


class BackendExists(ConfigurationError, ValueError):
    """A backend of this name is loaded already, with another configuration."""

    advice = "Give every backend a name of its own"


class BackendSetupFailed(CinderCSIError):
    """The driver was loaded and its own setup failed."""

    advice = "Check the backend's address, credentials and options"


class NotProvided(CinderCSIError):
    """A driver asked the stand-in of Cinder's database for something it does not have."""

    advice = "Report the driver and the operation: this needs a function of the stand-in"


class NotFound(CinderCSIError):
    """No record has this id or name."""


class VolumeNotFound(NotFound):
    """No volume has this id."""


class SnapshotNotFound(NotFound):
    """No snapshot has this id."""


class GroupNotFound(NotFound):
    """No group has this id."""


class GroupSnapshotNotFound(NotFound):
    """No group snapshot has this id."""


class ConnectionNotFound(NotFound):
    """No connection has this id."""


class BackendNotFound(NotFound):
    """No backend of this name is loaded in this process."""

    advice = "Make the Backend first"


class InvalidVolume(CinderCSIError):
    """The volume or snapshot is not in a state that allows the operation."""


class InvalidSize(InvalidVolume):
    """A size is not a whole number of GiB, or smaller than it may be."""

    advice = "Sizes are whole GiB; volumes do not shrink"


class InvalidReference(InvalidVolume):
    """A reference to something on an array is not one, or names what is managed already."""

    advice = (
        "Give {'source-name': NAME} or {'source-id': ID}; manageable_volumes() and"
        " manageable_snapshots() list what there is"
    )


class InvalidPersistence(ConfigurationError):
    """The record store is not one, or unknown."""


class GroupFailed(CinderCSIError):
    """A driver reports that an operation on a group failed; each member's status tells more."""

    advice = "Look at the members' status and the backend, then repeat it or delete what is left"


class NotLocal(CinderCSIError):
    """The connection is not attached to this host."""

    advice = "Attach the volume first"


class OperationNotSupported(CinderCSIError):
    """The backend's driver cannot do this."""


class InvalidJSON(CinderCSIError, ValueError):
    """JSON that is loaded is not of an object of this library, or of a newer version."""

    advice = "Load what json, jsons, dump, dumps, to_json or to_jsons gave"
