"""Sizes: whole GiB within the range that is asked, or an error that says why not."""

from __future__ import annotations

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from csi_driver.base.errors import CinderCSIError, InvalidRequest
from csi_driver.base.values import GIB
from csi_driver.controller.capacity import check_range, satisfies, size_for
from csi_driver.controller.errors import CapacityOutOfRange

sizes = st.one_of(
    st.integers(0, 8).map(lambda n: n * GIB),
    st.integers(0, 8 * GIB),
    st.integers(-(1 << 63), (1 << 63) - 1),
)


@given(required=sizes, limit=sizes, source=st.integers(0, 8))
@example(required=(1 << 63) - 1, limit=0, source=0)
def test_a_size_is_within_the_range_or_there_is_an_error(required, limit, source):
    try:
        size = size_for(required, limit, source)
    except CinderCSIError:
        return
    assert size >= max(1, source)
    assert satisfies(size, required, limit)
    assert size * GIB < 1 << 63, "capacity_bytes of the answer is an int64"


@given(required=st.integers(0, 1 << 62), limit=st.integers(0, 1 << 62))
def test_an_error_means_that_no_whole_gib_would_have_done(required, limit):
    try:
        size = size_for(required, limit)
    except CapacityOutOfRange:
        smallest = max(1, -(-required // GIB))
        assert limit and smallest * GIB > limit
    else:
        assert not satisfies(size - 1, max(required, 1), limit), "the smallest that satisfies"


@pytest.mark.parametrize(
    ("required", "limit", "size"),
    [
        (0, 0, 1),
        (1, 0, 1),
        (GIB, 0, 1),
        (GIB, GIB, 1),
        (GIB + 1, 0, 2),
        (3 * GIB // 2, 0, 2),
        (3 * GIB // 2, 2 * GIB, 2),
        (0, 5 * GIB, 1),
        (10 * GIB, 11 * GIB, 10),
    ],
)
def test_a_size_is_rounded_up_to_the_next_gib(required, limit, size):
    assert size_for(required, limit) == size


@pytest.mark.parametrize(
    ("required", "limit", "advice"),
    [
        (3 * GIB // 2, 2 * GIB - 1, f"at least {2 * GIB} bytes"),
        (0, GIB - 1, f"at least {GIB} bytes"),
        (1, 512, f"at least {GIB} bytes"),
        (2 * GIB, GIB, "Raise the limit"),
    ],
)
def test_a_limit_that_no_size_meets_is_out_of_range_with_what_would_do(required, limit, advice):
    with pytest.raises(CapacityOutOfRange) as refused:
        size_for(required, limit)
    assert advice in str(refused.value)


@given(source=st.integers(1, 100), limit=sizes)
def test_a_copy_without_a_size_gets_its_sources(source, limit):
    assume(limit >= source * GIB or limit == 0)
    assert size_for(0, limit, source) == source


def test_a_copy_is_never_smaller_than_its_source():
    assert size_for(3 * GIB, 0, 3) == 3
    assert size_for(3 * GIB + 1, 0, 3) == 4
    with pytest.raises(CapacityOutOfRange, match="less than the source's"):
        size_for(3 * GIB - 1, 0, 3)
    with pytest.raises(CapacityOutOfRange):
        size_for(0, 2 * GIB, 3)


@pytest.mark.parametrize(("required", "limit"), [(-1, 0), (0, -1), (-GIB, -GIB)])
def test_a_negative_size_is_an_invalid_request(required, limit):
    with pytest.raises(InvalidRequest, match="negative"):
        check_range(required, limit)
