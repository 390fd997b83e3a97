"""A figure tells whether it keeps its bound, and what it stands beside."""

from __future__ import annotations

import pytest

from tests.bench.figures import Figure, line, number, table


def figure(**fields) -> Figure:
    return Figure(**{"name": "CPU", "setting": "all, db", "value": 2.0, "unit": "ms"} | fields)


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({"bound": 2.0}, "PASS"),
        ({"bound": 1.99}, "MISS"),
        ({"bound": 2.0, "at_least": True}, "PASS"),
        ({"bound": 2.01, "at_least": True}, "MISS"),
        ({}, ""),
    ],
)
def test_a_bound_is_kept_or_missed(fields, verdict):
    assert figure(**fields).verdict == verdict


def test_a_line_shows_the_bound_and_the_ratio():
    shown = line(figure(bound=3, beside=0.5))
    assert shown == ("PASS  CPU (all, db): 2.00 ms; at most 3; bare grpcio server 0.50: ratio 4.00")


def test_a_figure_without_bound_or_neighbour_shows_neither():
    assert line(figure()).split() == ["CPU", "(all,", "db):", "2.00", "ms"]


def test_the_table_has_a_row_for_each_figure():
    rows = table([figure(name="a"), figure(name="b", bound=1)]).splitlines()
    assert len({row.count("|") for row in rows}) == 1
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| a", "| b"]
    assert "MISS" in rows[3]


@pytest.mark.parametrize(
    ("value", "shown"), [(1234.5, "1234"), (99.96, "100.0"), (12.34, "12.3"), (0.456, "0.46")]
)
def test_numbers_have_three_digits(value, shown):
    assert number(value) == shown
