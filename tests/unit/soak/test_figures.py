"""What the soak calls flat."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.soak.figures import ALLOWED, Sample, growth

LOOK = Sample(
    operations=0,
    memory_mib=200.0,
    threads=60,
    descriptors=50,
    lock_files=3,
    objects=8,
    tombstones=900,
    backend_files=8,
    log_mib=4.0,
)


def samples(name: str, values: list[float]) -> list[Sample]:
    return [replace(LOOK, **{name: value}) for value in values]


def test_what_stays_is_flat():
    assert growth([LOOK] * 8) == []


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_every_figure_that_doubles_is_told(name):
    start = 1000.0
    told = growth(samples(name, [start] * 4 + [2 * start] * 4))
    assert told == [f"{name} grew from 1000 to 2000"]


def test_a_slow_leak_of_memory_is_told():
    assert growth(samples("memory_mib", [200.0 + n for n in range(40)]))


def test_warming_up_is_no_growth():
    assert growth(samples("memory_mib", [100.0] * 2 + [200.0] * 6)) == []


def test_one_look_at_a_bad_moment_is_no_growth():
    assert growth(samples("threads", [60] * 15 + [90])) == []


def test_too_few_looks_say_nothing():
    with pytest.raises(ValueError, match="too few"):
        growth([LOOK] * 7)
