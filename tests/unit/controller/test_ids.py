"""Ids: the same for the same question, different for every other."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from csi_driver.controller import ids

HERE, ELSEWHERE = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))

names = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=128)


@given(names)
def test_a_name_has_one_id_in_an_installation(name):
    made = ids.object_id(HERE, "volume", 1, name)
    assert made == ids.object_id(HERE, "volume", 1, name)
    assert made == str(uuid.UUID(made))


@given(st.uuids(), names)
def test_an_id_is_the_uuid5_that_earlier_versions_gave(installation, name):
    given_before = uuid.uuid5(installation, f"volume\0{7}\0{name}")
    assert ids.object_id(str(installation), "volume", 7, name) == str(given_before)


@given(name=names, other=names)
def test_installations_kinds_incarnations_and_names_never_share_an_id(name, other):
    questions = {
        (installation, kind, incarnation, text)
        for installation in (HERE, ELSEWHERE)
        for kind in ("volume", "snapshot")
        for incarnation in (1, 2, 11)
        for text in (name, other)
    }
    assert len({ids.object_id(*question) for question in questions}) == len(questions)


@given(names)
def test_a_tombstone_has_an_id_of_its_own(name):
    assert ids.tombstone_id(HERE, "volume", name) != ids.tombstone_id(HERE, "snapshot", name)
    assert ids.tombstone_id(HERE, "volume", name) != ids.object_id(HERE, "volume", 1, name)


def test_every_attempt_has_a_cinder_id_of_its_own():
    assert len({ids.new_cinder_id() for _ in range(100)}) == 100


@given(st.lists(st.uuids(), min_size=2, max_size=10, unique=True), names)
def test_connections_of_a_page_of_volumes_are_one_range(volumes, node):
    """What the listing of published nodes relies on."""
    page = sorted(map(str, volumes))
    for volume in page:
        connection = ids.connection_id(volume, node)
        assert volume < connection < volume + "0"
        assert all(other > connection for other in page if other > volume)
