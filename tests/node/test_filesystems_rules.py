"""Whether a filesystem may be made: every rule, and the property that protects data."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_driver.base.errors import CinderCSIError
from csi_driver.base.values import Formatting, FormattingState
from csi_driver.node.filesystem_errors import (
    FilesystemMismatch,
    FilesystemTypeConflict,
    ForeignSignature,
    FormattedButBlank,
    NotBlank,
    NotFormatted,
    UnsupportedFilesystem,
)
from csi_driver.node.filesystems import Action, Decision, Probed, decide

OWN = "6f1b2c3d-0000-4000-8000-00000000abcd"
THEIRS = "11223344-5566-4788-99aa-bbccddeeff00"

NEVER = Formatting(state=FormattingState.NEVER, fs_uuid=OWN)
FORMATTED = Formatting(state=FormattingState.FORMATTED, fs_type="ext4", fs_uuid=OWN)
RAW = Formatting(state=FormattingState.RAW)
UNKNOWN = Formatting(state=FormattingState.UNKNOWN)

BLANK = Probed(blank=True)
BYTES = Probed()
BEGUN = Probed(uuid=OWN)
OURS = Probed(fs_type="ext4", uuid=OWN)
OTHERS = Probed(fs_type="ext4", uuid=THEIRS)
LUKS = Probed(foreign=("crypto_LUKS",))

TYPES = st.sampled_from(["", "ext4", "ext3", "xfs", "btrfs"])
UUIDS = st.sampled_from(["", OWN, OWN.upper(), THEIRS])
FORMATTINGS = st.builds(
    Formatting, state=st.sampled_from(FormattingState), fs_type=TYPES, fs_uuid=UUIDS
)
PROBES = st.one_of(
    st.just(BLANK),
    st.builds(
        Probed,
        fs_type=st.sampled_from(["", "ext4", "ext3", "xfs"]),
        uuid=UUIDS,
        foreign=st.lists(st.sampled_from(["crypto_LUKS", "gpt", "btrfs"]), max_size=2).map(tuple),
    ),
)


@given(FORMATTINGS, TYPES, PROBES)
def test_mkfs_is_for_volumes_never_formatted_that_show_nothing_of_others(
    formatting: Formatting, wanted: str, probed: Probed
) -> None:
    try:
        decision = decide(formatting, wanted, probed)
    except CinderCSIError as error:
        assert error.message
        return
    if decision.action is Action.MAKE or decision.remake_if_damaged:
        own = probed.uuid.lower() == formatting.fs_uuid.lower() != ""
        assert formatting.state is FormattingState.NEVER
        assert probed.blank or (own and not probed.foreign)
        assert decision.uuid.lower() == formatting.fs_uuid.lower()
    if decision.action is Action.USE:
        assert decision.fs_type == probed.fs_type != ""
    assert wanted in ("", decision.fs_type)


@given(FORMATTINGS, TYPES, PROBES)
def test_a_decision_that_was_carried_out_is_to_use_it(
    formatting: Formatting, wanted: str, probed: Probed
) -> None:
    """A stage that crashed after mkfs goes on with the filesystem it made."""
    try:
        first = decide(formatting, wanted, probed)
    except CinderCSIError:
        return
    made = Probed(fs_type=first.fs_type, uuid=first.uuid)
    if first.action is Action.MAKE and first.uuid:
        again = decide(formatting, wanted, made)
        assert (again.action, again.fs_type, again.uuid) == (
            Action.USE,
            first.fs_type,
            first.uuid,
        )


class TestNeverFormatted:
    @pytest.mark.parametrize(
        ("recorded", "wanted", "made"),
        [("", "", "ext4"), ("", "xfs", "xfs"), ("xfs", "", "xfs"), ("ext4", "xfs", "xfs")],
    )
    def test_and_blank_is_made(self, recorded: str, wanted: str, made: str) -> None:
        formatting = Formatting(fs_type=recorded, fs_uuid=OWN)
        assert decide(formatting, wanted, BLANK) == Decision(
            action=Action.MAKE, fs_type=made, uuid=OWN
        )

    def test_with_our_own_filesystem_uses_it_and_may_make_it_again(self) -> None:
        assert decide(NEVER, "", OURS) == Decision(
            action=Action.USE, fs_type="ext4", uuid=OWN, remake_if_damaged=True
        )

    def test_with_our_own_filesystem_of_another_type_is_made_again(self) -> None:
        assert decide(NEVER, "xfs", OURS).action is Action.MAKE

    def test_with_our_own_that_was_only_begun_is_made(self) -> None:
        assert decide(NEVER, "", BEGUN).action is Action.MAKE

    @pytest.mark.parametrize(
        "found", [OTHERS, LUKS, Probed(fs_type="ext4", uuid=OWN, foreign=("gpt",))]
    )
    def test_with_anything_of_others_is_refused(self, found: Probed) -> None:
        with pytest.raises(ForeignSignature, match=found.foreign[0] if found.foreign else THEIRS):
            decide(NEVER, "", found)

    def test_with_bytes_that_nobody_knows_is_refused(self) -> None:
        with pytest.raises(NotBlank):
            decide(NEVER, "", BYTES)
        with pytest.raises(NotBlank):
            decide(NEVER, "", Probed(uuid=THEIRS))

    def test_without_a_uuid_of_our_own_nothing_counts_as_our_own(self) -> None:
        with pytest.raises(ForeignSignature):
            decide(Formatting(), "", Probed(fs_type="ext4", uuid=""))


class TestFormatted:
    def test_with_the_recorded_filesystem_uses_it(self) -> None:
        assert decide(FORMATTED, "", OURS) == Decision(action=Action.USE, fs_type="ext4", uuid=OWN)

    @pytest.mark.parametrize("found", [BLANK, BYTES, BEGUN])
    def test_and_looking_blank_is_an_error_and_never_made(self, found: Probed) -> None:
        with pytest.raises(FormattedButBlank, match="will be formatted"):
            decide(FORMATTED, "ext4", found)

    @pytest.mark.parametrize("found", [OTHERS, LUKS, Probed(fs_type="xfs", uuid=OWN)])
    def test_with_another_filesystem_is_an_error(self, found: Probed) -> None:
        with pytest.raises(FilesystemMismatch, match=f"should hold ext4 {OWN}"):
            decide(FORMATTED, "", found)

    def test_asked_for_another_type_is_an_error(self) -> None:
        with pytest.raises(FilesystemTypeConflict):
            decide(FORMATTED, "xfs", OURS)

    def test_as_a_clone_keeps_the_uuid_of_its_source(self) -> None:
        clone = Formatting(state=FormattingState.FORMATTED, fs_type="ext4", fs_uuid=THEIRS)
        assert decide(clone, "", OTHERS).uuid == THEIRS


@pytest.mark.parametrize("formatting", [RAW, UNKNOWN])
class TestNotToBeFormatted:
    def test_a_filesystem_is_used(self, formatting: Formatting) -> None:
        assert decide(formatting, "", OTHERS).action is Action.USE

    @pytest.mark.parametrize("found", [BLANK, BYTES])
    def test_no_filesystem_is_an_error(self, formatting: Formatting, found: Probed) -> None:
        with pytest.raises(NotFormatted):
            decide(formatting, "ext4", found)

    def test_another_type_than_asked_for_is_an_error(self, formatting: Formatting) -> None:
        with pytest.raises(FilesystemTypeConflict):
            decide(formatting, "xfs", OTHERS)

    def test_what_cannot_be_mounted_is_an_error(self, formatting: Formatting) -> None:
        with pytest.raises(UnsupportedFilesystem, match="crypto_LUKS"):
            decide(formatting, "", LUKS)


@pytest.mark.parametrize("formatting", [NEVER, FORMATTED, RAW, UNKNOWN])
def test_an_unsupported_type_is_refused(formatting: Formatting) -> None:
    with pytest.raises(UnsupportedFilesystem, match="btrfs"):
        decide(formatting, "btrfs", BLANK)
