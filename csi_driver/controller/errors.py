"""What can go wrong in the controller; ``rpc.errors`` maps each to a gRPC code."""

from __future__ import annotations

from csi_driver.base.errors import CinderCSIError


class VolumeNotFound(CinderCSIError):
    """No record has this volume id."""


class SnapshotNotFound(CinderCSIError):
    """No record has this snapshot id."""


class NodeNotFound(CinderCSIError):
    """No node registered itself with this id."""

    advice = "Check that the node plugin runs there and that both use the same state directory"


class SourceNotFound(CinderCSIError):
    """The volume or snapshot to create from does not exist."""


class SourceFormatted(CinderCSIError):
    """The source was put to use while it was copied: the copy, which held anything, is gone."""

    advice = "Retry; the next copy is of a volume that is in use, and known as such"


class IncompatibleExists(CinderCSIError):
    """The name is taken by an object that differs from what is asked."""

    advice = "Use another name, or ask for what the existing object is"


class PublishedIncompatible(CinderCSIError):
    """The volume is published to this node with another capability or readonly flag."""

    advice = "Unpublish it from the node first"


class PublishedElsewhere(CinderCSIError):
    """The volume is published to another node and its access mode allows one."""

    advice = "Unpublish it from that node first"


class VolumeInUse(CinderCSIError):
    """The volume cannot be deleted or reverted: it is published, or snapshots depend on it."""


class CapacityOutOfRange(CinderCSIError):
    """The requested sizes contradict each other, the source or the backend."""


class TopologyUnreachable(CinderCSIError):
    """The backend cannot be reached from the requested topology."""


class AttachLimitReached(CinderCSIError):
    """The node has as many volumes as it can take."""

    advice = "Unpublish a volume from the node, or raise the node's limit"


class BadToken(CinderCSIError):
    """A starting_token that no list call of ours returned."""

    advice = "Start the list again without a token"


class BackendNoSpace(CinderCSIError):
    """The backend has not enough room."""

    advice = "Free space, or use another backend or pool"


class BackendRefused(CinderCSIError):
    """The backend refuses the operation on this object in its present state."""


class BackendUnsupported(CinderCSIError):
    """The backend's driver cannot do this."""


class BackendUnavailable(CinderCSIError):
    """The backend did not answer; nothing was changed there."""

    advice = "Check the network to the array and its health; the call may be retried"


class BackendFailed(CinderCSIError):
    """The backend failed, and it is proved that nothing of the attempt is left."""


class OutcomeUnknown(CinderCSIError):
    """A backend call failed after it may have taken effect, and the undo did not succeed yet."""

    advice = "Retry; the next attempt first removes what this one may have left"
