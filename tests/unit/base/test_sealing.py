"""Sealed text: what opens it, what does not, rotation, and the key file."""

from __future__ import annotations

import base64
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_driver.base.errors import (
    CinderCSIError,
    ConfigurationError,
    SealError,
    StateDirectoryError,
)
from csi_driver.base.sealing import (
    KeyFile,
    KeyRing,
    change,
    create,
    key_id_of,
    load,
    load_or_create,
)

RING = KeyRing.generate()

bindings = st.lists(st.text(max_size=20), min_size=1, max_size=4).map(tuple)


@given(plain=st.binary(max_size=300), bound_to=bindings)
def test_what_is_sealed_opens_with_the_same_binding(plain, bound_to):
    assert RING.open(RING.seal(plain, bound_to), bound_to) == plain


@given(bound_to=bindings, other=bindings)
def test_sealed_text_does_not_open_for_anything_else(bound_to, other):
    sealed = RING.seal(b"connection info", bound_to)
    if other != bound_to:
        with pytest.raises(SealError, match="not sealed for"):
            RING.open(sealed, other)


def test_the_parts_of_a_binding_cannot_be_moved_into_each_other():
    with pytest.raises(SealError):
        RING.open(RING.seal(b"x", ("ab", "c")), ("a", "bc"))


@given(data=st.data())
def test_no_changed_bit_goes_unnoticed(data):
    raw = bytearray(base64.b64decode(RING.seal(b"connection info", ("a",))))
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(SealError):
        RING.open(base64.b64encode(raw).decode(), ("a",))


@given(data=st.data())
def test_no_cut_goes_unnoticed(data):
    raw = base64.b64decode(RING.seal(b"connection info", ("a",)))
    kept = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(SealError):
        RING.open(base64.b64encode(raw[:kept]).decode(), ("a",))


@given(st.text(max_size=60))
def test_text_that_was_never_sealed_is_refused_as_such(text):
    with pytest.raises(SealError):
        RING.open(text, ("a",))


def test_the_same_bytes_are_sealed_differently_each_time():
    assert RING.seal(b"same", ("a",)) != RING.seal(b"same", ("a",))


def test_a_key_that_is_not_in_the_ring_is_named():
    other = KeyRing.generate()
    with pytest.raises(SealError, match=other.current):
        RING.open(other.seal(b"x", ("a",)), ("a",))


def test_sealed_text_tells_the_id_of_its_key():
    assert key_id_of(RING.seal(b"x", ("a",))) == RING.current
    with pytest.raises(SealError, match="not base64"):
        key_id_of("CHAP user password")


def test_after_a_rotation_old_and_new_text_open_and_the_old_ring_opens_only_the_old():
    rotated = RING.rotated()
    old_text = RING.seal(b"old", ("a",))
    new_text = rotated.seal(b"new", ("a",))
    assert rotated.open(old_text, ("a",)) == b"old"
    assert rotated.open(new_text, ("a",)) == b"new"
    with pytest.raises(SealError):
        RING.open(new_text, ("a",))


def test_a_ring_remembers_when_each_key_was_made():
    ring = KeyRing.generate(now=1000.5)
    rotated = ring.rotated(now=2000.0)
    assert rotated.created == {ring.current: 1000.5, rotated.current: 2000.0}
    assert rotated.pruned(()).created == {rotated.current: 2000.0}


def test_pruning_keeps_the_current_key_and_those_in_use():
    first = KeyRing.generate()
    second = first.rotated()
    third = second.rotated()
    assert set(third.pruned({first.current}).keys) == {first.current, third.current}
    assert set(third.pruned(()).keys) == {third.current}


def test_a_ring_does_not_show_its_keys():
    assert RING.keys[RING.current] not in f"{RING!r} {RING}"


# -- the key file ---------------------------------------------------------------


def test_the_key_file_is_made_once_and_for_its_owner_only(tmp_path: Path):
    path = tmp_path / "keys" / "transport.json"
    made = load_or_create(path)
    assert load_or_create(path) == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_of_two_that_make_the_key_file_at_once_both_get_the_same_ring(tmp_path: Path):
    starters = 8
    barrier = threading.Barrier(starters)

    def start(path: Path) -> KeyRing:
        barrier.wait()
        return load_or_create(path)

    with ThreadPoolExecutor(starters) as pool:
        for attempt in range(20):
            path = tmp_path / str(attempt) / "ring.json"
            rings = list(pool.map(start, [path] * starters))
            assert rings == [load_or_create(path)] * starters
            assert list(path.parent.iterdir()) == [path]


def ring_json(current: str, **keys: str) -> bytes:
    return msgspec.json.encode({"current": current, "keys": keys})


GOOD_KEY = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"current": "00000001"}',
        ring_json("00000001", **{"00000002": GOOD_KEY}),
        ring_json("00000001", **{"00000001": "not base64!"}),
        ring_json("00000001", **{"00000001": base64.b64encode(bytes(31)).decode()}),
        ring_json("first", first=GOOD_KEY),
        ring_json("00000001", **{"00000001": GOOD_KEY, "second": GOOD_KEY}),
    ],
)
def test_a_damaged_key_file_is_named_and_left_as_it_is(tmp_path: Path, content: bytes):
    path = tmp_path / "ring.json"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"ring\.json"):
        load_or_create(path)
    assert path.read_bytes() == content


def test_a_key_file_that_is_no_text_is_named(tmp_path: Path):
    path = tmp_path / "ring.json"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CinderCSIError, match=r"ring\.json cannot be read"):
        load_or_create(path)


def test_a_key_file_without_dates_is_from_before_and_works(tmp_path: Path):
    path = tmp_path / "ring.json"
    path.write_bytes(ring_json("00000001", **{"00000001": GOOD_KEY}))
    assert load(path).created == {}


def test_loading_makes_no_file(tmp_path: Path):
    with pytest.raises(ConfigurationError, match=r"no key file .*ring\.json"):
        load(tmp_path / "ring.json")
    assert list(tmp_path.iterdir()) == []


def test_a_ring_that_others_share_is_not_made(tmp_path: Path):
    path = tmp_path / "keys" / "ring.json"
    with pytest.raises(ConfigurationError, match="no key file") as refused:
        KeyFile(path, shared=True)
    assert "keys create" in str(refused.value)
    assert list(tmp_path.iterdir()) == []
    made = create(path)
    assert KeyFile(path, shared=True)() == made


def test_a_running_process_uses_a_changed_ring_at_its_next_use(tmp_path: Path):
    path = tmp_path / "keys" / "ring.json"
    keys = KeyFile(path)
    before = keys()
    _, after = change(path, KeyRing.rotated)
    assert keys() == after != before
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [None, b"{"])
def test_a_ring_whose_file_is_lost_or_damaged_stays_in_use_until_it_is_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes | None
):
    path = tmp_path / "ring.json"
    keys = KeyFile(path)
    ring, text = keys(), path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert keys() == keys() == ring
    assert len(caplog.records) == 1, "said once"
    assert "ring.json" in caplog.text
    path.unlink(missing_ok=True)
    path.write_bytes(text)
    change(path, KeyRing.rotated)
    assert keys() == load(path) != ring


def test_of_many_rotations_at_once_no_key_is_lost(tmp_path: Path):
    path = tmp_path / "ring.json"
    load_or_create(path)
    with ThreadPoolExecutor(8) as pool:
        rotated = [after.current for _, after in pool.map(lambda _: rotate(path), range(16))]
    assert set(rotated) < set(load(path).keys)
    assert len(load(path).keys) == 17


def rotate(path: Path) -> tuple[KeyRing, KeyRing]:
    return change(path, KeyRing.rotated)


def test_a_change_that_changes_nothing_leaves_the_file_alone(tmp_path: Path):
    path = tmp_path / "ring.json"
    load_or_create(path)
    before = path.stat()
    change(path, lambda ring: ring.pruned(()))
    assert path.stat() == before


def test_changing_keys_where_there_are_none_says_so(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="no keys in"):
        change(tmp_path / "keys" / "ring.json", KeyRing.rotated)


@pytest.mark.root
def test_the_keys_of_another_user_are_not_made_unreadable_for_him(tmp_path: Path):
    path = tmp_path / "ring.json"
    ring = load_or_create(path)
    os.chown(path, 12345, -1)
    with pytest.raises(StateDirectoryError, match="12345"):
        change(path, KeyRing.rotated)
    assert load(path) == ring
