"""NodePublishVolume and NodeUnpublishVolume: bind the staged volume to a target path."""

from __future__ import annotations

import logging

from csi_driver.base.values import AccessType
from csi_driver.node import mounts, observe, rules, targets
from csi_driver.node.errors import MountFailed, NodeStateDamaged, PublishRollbackFailed, both
from csi_driver.node.operations import Progress
from csi_driver.node.parts import Parts
from csi_driver.node.requests import PublishRequest
from csi_driver.node.rules import Plan
from csi_driver.node.state import PublishedTarget, StagedVolume

LOG = logging.getLogger(__name__)


def publish(parts: Parts, request: PublishRequest, progress: Progress) -> None:
    """Make the staged volume visible at the target path; repeats are fine.

    The target is recorded before it is mounted, so that a crash leaves no mount
    that nobody knows.  A read-only bind keeps a *filesystem* from being written;
    for a block device the container runtime enforces it.

    :raises CinderCSIError: see :func:`csi_driver.node.rules.plan_publish`; and TargetUnusable,
        MountFailed, TargetBusy, PublishRollbackFailed.
    """
    rules.check_capability(request.capability)
    staged = parts.state.read(request.volume_id)
    usable = staged is not None and observe.at_staging(staged, staged.staging_path).usable
    at_target = observe.look(staged, request.target_path)
    live = observe.live_targets(staged)
    plan, target = rules.plan_publish(request, staged, usable, at_target, live)
    if plan is Plan.NOTHING or staged is None:
        return
    if plan is Plan.UNDO_FIRST:
        progress.at("unmounting")
        mounts.unmount(request.target_path)
    targets.prepare(request.target_path, request.capability.access_type)
    staged = observe.forget_gone_targets(staged).with_target(target)
    progress.record("binding", parts.state.write, staged)
    try:
        _bind(staged, target)
    except Exception as error:
        _roll_back(parts, staged, target, error, progress)
        raise
    progress.at("bound")


def _bind(staged: StagedVolume, target: PublishedTarget) -> None:
    block = staged.capability.access_type is AccessType.BLOCK
    source = staged.device if block else staged.staging_path
    mounts.bind(source, target.target_path, target.readonly)
    if not observe.look(staged, target.target_path).ours:
        raise MountFailed(f"{source} was bound, but at {target.target_path} is something else")


def _roll_back(
    parts: Parts,
    staged: StagedVolume,
    target: PublishedTarget,
    error: Exception,
    progress: Progress,
) -> None:
    try:
        mounts.unmount(target.target_path)
        targets.remove(target.target_path)
        left = staged.without_target(target.target_path)
        progress.record("undone", parts.state.write, left)
    except Exception as second:
        raise PublishRollbackFailed(both(error, second)) from error


def unpublish(parts: Parts, volume_id: str, target_path: str, progress: Progress) -> None:
    """Unmount and remove the target path; OK when there is nothing, with or without state.

    :raises TargetBusy, UnmountFailed: it cannot be unmounted.
    :raises TargetUnusable: what is there is not an empty file or directory.
    """
    progress.at("unmounting")
    mounts.unmount(target_path)
    progress.at("unmounted")
    targets.remove(target_path)
    try:
        staged = parts.state.read(volume_id)
    except NodeStateDamaged as error:
        LOG.warning("Volume %s was unpublished without its state: %s", volume_id, error.message)
        return
    if staged is not None and staged.target(target_path) is not None:
        progress.record("gone", parts.state.write, staged.without_target(target_path))
