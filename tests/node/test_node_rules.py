"""The node's decisions as pure functions: every combination, without a device."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_driver.attach.errors import DeviceIdentityMismatch
from csi_driver.base.errors import CinderCSIError
from csi_driver.base.values import (
    AccessMode,
    AccessType,
    Confirmation,
    Formatting,
    FormattingState,
    PublishContext,
    VolumeCapability,
)
from csi_driver.node import rules
from csi_driver.node.filesystem_errors import NotFormatted
from csi_driver.node.mounts import Mount
from csi_driver.node.requests import PublishRequest, StageRequest
from csi_driver.node.rules import Plan, Seen
from csi_driver.node.state import PublishedTarget, StagedVolume, Step

CAPABILITIES = st.builds(
    VolumeCapability,
    access_type=st.sampled_from(AccessType),
    mode=st.sampled_from(AccessMode),
    fs_type=st.sampled_from(["", "ext4", "xfs"]),
    mount_flags=st.sampled_from([(), ("noatime",)]),
)
FORMATTINGS = st.builds(
    Formatting,
    state=st.sampled_from(FormattingState),
    fs_type=st.sampled_from(["", "ext4"]),
    fs_uuid=st.sampled_from(["", "u"]),
)


def mounted(path: str, *options: str) -> Mount:
    return Mount(1, 0, "7:1", "/", path, options or ("rw",), "ext4", "/dev/loop1", ("rw",))


SEEN = st.sampled_from(
    [
        Seen(),
        Seen(mounted("/p")),
        Seen(mounted("/p"), ours=True),
        Seen(mounted("/p"), ours=True, usable=True),
        Seen(mounted("/p", "ro"), ours=True, usable=True),
    ]
)
TARGETS = st.lists(
    st.builds(
        PublishedTarget,
        target_path=st.sampled_from(["/t", "/other"]),
        capability=CAPABILITIES,
        readonly=st.booleans(),
    ),
    max_size=2,
    unique_by=lambda target: target.target_path,
).map(tuple)
STAGED = st.none() | st.builds(
    StagedVolume,
    volume_id=st.just("v"),
    staging_path=st.sampled_from(["/s", "/other"]),
    publish_context=st.just({}),
    capability=CAPABILITIES,
    readonly=st.booleans(),
    step=st.sampled_from(Step),
    boot_id=st.just("b"),
    fs_type=st.sampled_from(["", "ext4"]),
    targets=TARGETS,
)


def outcome(decide, *arguments):
    """The decision, or the error that it raised instead."""
    try:
        return decide(*arguments)
    except CinderCSIError as error:
        return error


# --- stage -----------------------------------------------------------------------------------


ENDED = STAGED.filter(lambda staged: staged is None or staged.step is Step.STAGED)


@given(CAPABILITIES, st.booleans(), ENDED, SEEN, st.booleans())
def test_a_stage_plan_never_disturbs_what_is_foreign_working_or_in_use(
    capability, readonly, staged, seen, published
):
    request = StageRequest(
        volume_id="v", publish_context={}, staging_path="/s", capability=capability
    )
    live = ("/t",) if published else ()
    plan = outcome(rules.plan_stage, request, readonly, staged, seen, live)
    if seen.mount is not None and not seen.ours:
        assert isinstance(plan, CinderCSIError)
    if plan is Plan.NOTHING:
        assert staged is not None
        assert seen.usable
        assert (staged.staging_path, staged.capability) == ("/s", capability)
        assert staged.readonly == readonly
    if plan is Plan.ANEW:
        assert staged is None
    if plan is Plan.UNDO_FIRST:
        assert not seen.usable
        assert not published


@given(FORMATTINGS, st.none() | FORMATTINGS)
def test_what_nodes_confirmed_counts_more_than_the_grant(granted, confirmed):
    context = PublishContext(
        volume_id="v", node_id="n", connection={}, size_bytes=1, formatting=granted
    )
    told = None if confirmed is None else Confirmation(volume_id="v", formatting=confirmed)
    assert rules.formatting_of(context, told) == (confirmed or granted)


@given(FORMATTINGS, st.booleans())
def test_only_a_never_formatted_volume_cannot_be_read_only(formatting, readonly):
    result = outcome(rules.check_grant, "v", formatting, readonly)
    refused = readonly and formatting.state is FormattingState.NEVER
    assert isinstance(result, NotFormatted) == refused


@given(FORMATTINGS)
def test_a_volume_that_was_given_out_is_not_never_formatted_any_more(granted):
    assert rules.given_out_raw(granted).state is not FormattingState.NEVER
    assert rules.proved_formatting(granted, "ext4", "u").state is not FormattingState.NEVER


@given(FORMATTINGS, FORMATTINGS, st.sampled_from(["", "i"]), st.none() | FORMATTINGS)
def test_whatever_is_new_is_confirmed(granted, proved, identity, confirmed):
    earlier = (
        None
        if confirmed is None
        else Confirmation(volume_id="v", formatting=confirmed, identity=identity)
    )
    context = PublishContext(
        volume_id="v", node_id="n", connection={}, size_bytes=1, formatting=granted
    )
    told = rules.new_confirmation(context, proved, identity, earlier)
    # What only the ledger knows may be the word of a node that has the volume no more.
    new = proved != granted or identity != "" or confirmed not in (None, proved)
    assert (told is not None) == new
    if told is not None:
        assert (told.formatting, told.identity) == (proved, identity)


@pytest.mark.parametrize(
    ("wanted", "found", "fits"),
    [
        ("", (), True),
        ("naa.6000", ("naa.6000",), True),
        ("36000C29000000000000000000000000a", ("naa.6000c29000000000000000000000000a",), True),
        ("uuid.1", ("eui.2", "uuid.1"), True),
        ("naa.6000", (), False),
        ("naa.6000", ("naa.6001",), False),
    ],
)
def test_the_device_must_be_the_recorded_one_in_any_spelling(wanted, found, fits):
    context = PublishContext(
        volume_id="v",
        node_id="n",
        connection={},
        size_bytes=1,
        formatting=Formatting(),
        identity=wanted,
    )
    result = outcome(rules.check_identity, context, None, "", found)
    assert isinstance(result, DeviceIdentityMismatch) != fits


# --- publish ---------------------------------------------------------------------------------


@given(CAPABILITIES, st.booleans(), STAGED, st.booleans(), SEEN, st.booleans())
def test_a_publish_plan_never_mounts_over_or_past_what_the_rules_allow(
    capability, readonly, staged, usable, seen, other_live
):
    request = PublishRequest(
        volume_id="v",
        staging_path="/s",
        target_path="/t",
        capability=capability,
        readonly=readonly,
    )
    live = ("/other",) if other_live else ()
    result = outcome(rules.plan_publish, request, staged, usable, seen, live)
    if isinstance(result, CinderCSIError):
        return
    plan, target = result
    assert staged is not None
    assert usable
    assert (staged.step, staged.staging_path) == (Step.STAGED, "/s")
    assert target.readonly == (readonly or staged.readonly or capability.mode.read_only)
    if plan is Plan.ANEW:
        assert seen.mount is None
    if plan is Plan.UNDO_FIRST:
        assert staged.target("/t") is not None
    if plan is Plan.NOTHING:
        assert seen.ours
        assert staged.target("/t") == target
    elif other_live:
        assert capability.mode.multi_target


@given(st.sampled_from(AccessMode), st.booleans(), st.sampled_from(["", "ro", "noatime,ro", "rw"]))
def test_read_only_is_what_the_call_the_mode_or_a_flag_says(mode, readonly, flag):
    capability = VolumeCapability(
        access_type=AccessType.MOUNT, mode=mode, mount_flags=(flag,) if flag else ()
    )
    expected = readonly or mode.read_only or "ro" in flag.split(",")
    assert rules.is_read_only(readonly, capability) is expected
