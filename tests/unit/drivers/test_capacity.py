"""What a directory of sparse files may still promise."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from csi_driver.base.values import GIB
from csi_driver.drivers.capacity import Limits, Usage, available, gib, gib_up, total

ONCE = Limits(ratio=1.0, reserved_percentage=0)

SIZES = st.integers(0, 1 << 50)


def usage(*, free: int, used: int = 0, written: int = 0, promised: int = 0) -> Usage:
    return Usage(free=free * GIB, used=used * GIB, written=written * GIB, promised=promised * GIB)


def test_an_unused_disk_can_be_promised_once():
    assert available(usage(free=100), ONCE) == 100 * GIB


def test_what_is_promised_and_not_written_counts():
    sparse = usage(free=98, used=2, written=2, promised=60)
    assert available(sparse, ONCE) == 40 * GIB


def test_what_is_written_is_not_counted_twice():
    full = usage(free=40, used=60, written=60, promised=60)
    assert available(full, ONCE) == 40 * GIB


def test_other_data_on_the_disk_is_not_of_the_pool():
    shared_disk = usage(free=30, used=70, written=10, promised=10)
    assert total(shared_disk) == 40 * GIB
    assert available(shared_disk, ONCE) == 30 * GIB


def test_shared_blocks_need_room_once_they_are_rewritten():
    # A volume of 10 GiB, written, and a reflink snapshot of it: 10 GiB used, not 20.
    cloned = usage(free=30, used=10, written=20, promised=20)
    assert total(cloned) == 40 * GIB
    assert available(cloned, ONCE) == 20 * GIB


def test_more_than_the_disk_is_promised_only_if_asked():
    half_promised = usage(free=100, promised=50)
    assert available(half_promised, Limits(ratio=2.0, reserved_percentage=0)) == 150 * GIB


def test_what_is_reserved_is_kept_free():
    assert available(usage(free=100), Limits(ratio=1.0, reserved_percentage=10)) == 90 * GIB
    nearly_full = usage(free=10, used=90, written=90, promised=90)
    assert available(nearly_full, Limits(ratio=1.0, reserved_percentage=10)) == 0


def test_a_disk_that_others_have_filled_has_nothing_left():
    assert available(usage(free=5, used=95, written=10, promised=40), ONCE) == 0


@given(free=SIZES, used=SIZES, written=SIZES, unwritten=SIZES)
def test_promised_once_all_volumes_can_be_written_full(free, used, written, unwritten):
    measured = Usage(free=free, used=used, written=written, promised=written + unwritten)
    room = available(measured, ONCE)
    if room:
        assert room + unwritten <= free


@given(SIZES)
def test_rounding_never_shows_more_room_or_less_need_than_there_is(size):
    assert gib(size) * GIB <= size <= gib_up(size) * GIB
