"""What the benchmark measured: figures, their bounds, and the table of them.

Pure; used by ``__main__`` for the terminal and for ``docs/performance.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class NotMeasured(Exception):
    """A part cannot be measured here; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured value.

    :param name: what was measured.
    :param setting: role, store and number of clients.
    :param bound: the value that it must not exceed, or fall below with ``at_least``;
        None for a figure that is shown only.
    :param beside: the value of ``beside_name`` in the same run, in the same unit.
    """

    name: str
    setting: str
    value: float
    unit: str
    bound: float | None = None
    at_least: bool = False
    beside: float | None = None
    beside_name: str = "bare grpcio server"

    @property
    def passed(self) -> bool:
        """Whether the value keeps its bound."""
        if self.bound is None:
            return True
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    @property
    def verdict(self) -> str:
        """PASS, MISS, or nothing for a figure without a bound."""
        if self.bound is None:
            return ""
        return "PASS" if self.passed else "MISS"

    @property
    def ratio(self) -> float | None:
        """The value as a multiple of what it stands beside."""
        return self.value / self.beside if self.beside else None


def line(figure: Figure) -> str:
    """The figure as one line of a terminal."""
    bound, beside = _bound(figure), _beside(figure)
    facts = [f"{number(figure.value)} {figure.unit}", *filter(None, [bound, beside])]
    return f"{figure.verdict:4}  {figure.name} ({figure.setting}): {'; '.join(facts)}"


def table(figures: Sequence[Figure]) -> str:
    """The figures as a Markdown table."""
    rows = [
        "| what | role, store | measured | bound | | beside it, in the same run |",
        "|---|---|---:|---:|---|---|",
    ]
    for figure in figures:
        cells = (
            figure.name,
            figure.setting,
            f"{number(figure.value)} {figure.unit}",
            _bound(figure),
            figure.verdict,
            _beside(figure),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def number(value: float) -> str:
    """Three significant digits: nothing here is known better."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _bound(figure: Figure) -> str:
    if figure.bound is None:
        return ""
    return f"{'at least' if figure.at_least else 'at most'} {figure.bound:g}"


def _beside(figure: Figure) -> str:
    if figure.beside is None or figure.ratio is None:
        return ""
    return f"{figure.beside_name} {number(figure.beside)}: ratio {number(figure.ratio)}"
