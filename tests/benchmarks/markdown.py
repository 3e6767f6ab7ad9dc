"""The Markdown table of ``tests.benchmarks.sharing``: figures, beside what, and goals."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.benchmarks.table import say

ROUNDS = 7
"""How often each figure is taken, in turn with what it is held against."""


@dataclass(frozen=True)
class Goal:
    """What a figure or a ratio must reach.

    Parameters
    ----------
    bound
        At least, or at most.
    least
        Which of the two.
    aim
        Whether it would be welcome only.
    """

    bound: float
    least: bool = False
    aim: bool = False

    def __str__(self) -> str:
        return f"{'aim: ' * self.aim}{'≥' if self.least else '≤'} {self.bound:g}"

    def reached(self, value: float) -> bool:
        """Tell whether a value is good enough."""
        return value >= self.bound if self.least else value <= self.bound


def least(bound: float) -> Goal:
    """Return the goal of at least so much."""
    return Goal(bound, least=True)


def most(bound: float, *, aim: bool = False) -> Goal:
    """Return the goal of at most so much."""
    return Goal(bound, aim=aim)


def rounds(works: dict[str, Callable[[], float]], times: int = ROUNDS) -> dict[str, list[float]]:
    """Return the figures of works that take turns; a first round, which warms up, is not counted.

    Raises
    ------
    ValueError
        Fewer than five: no median.
    """
    if times < 5:
        raise ValueError(f"{times} rounds: at least 5")
    seen: dict[str, list[float]] = {name: [] for name in works}
    for number in range(times + 1):
        for name, work in works.items():
            figure = work()
            if number:
                seen[name].append(figure)
    return seen


def shown(values: Sequence[float], unit: str = "") -> str:
    """Return a median with the least and the most of what it is the median of."""
    middle = f"{_short(statistics.median(values))} {unit}".rstrip()
    if len(values) == 1:
        return middle
    return f"{middle} ({_short(min(values))}..{_short(max(values))})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


@dataclass
class Markdown:
    """A table that is printed line by line.

    Attributes
    ----------
    lines : list of list of str
        What was printed.
    missed : list of str
        Goals that were not reached, aims not among them.
    left_out : list of str
        What could not be measured, and why.
    notes : list of str
        What else there is to say.
    """

    lines: list[list[str]] = field(default_factory=list)
    reached: int = 0
    missed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def begin(self) -> None:
        """Print the head."""
        self._print("work", "arrayd", "beside it", "arrayd / that", "goal", "")
        self._print(*["---"] * 6)

    def absolute(self, work: str, values: Sequence[float], unit: str, goal: Goal | None) -> None:
        """Print a figure by itself."""
        middle = statistics.median(values)
        end = (
            ("", "")
            if goal is None
            else (f"{goal} {unit}".rstrip(), self._verdict(work, middle, goal))
        )
        self._print(work, shown(values, unit), "–", "–", *end)

    def beside(
        self,
        work: str,
        mine: Sequence[float],
        unit: str,
        name: str,
        other: Sequence[float],
        goal: Goal | None = None,
    ) -> None:
        """Print a figure beside another's; the ratio is that of the same round.

        Parameters
        ----------
        mine, other
            Figures of the rounds, in `unit`.
        goal
            Of the ratio.
        """
        ratios = [a / b for a, b in zip(mine, other, strict=True)]
        middle = statistics.median(ratios)
        end = ("", "") if goal is None else (f"{goal} ×", self._verdict(work, middle, goal, name))
        cells = (shown(mine, unit), f"{name}: {shown(other, unit)}", shown(ratios), *end)
        self._print(work, *cells)

    def above(
        self,
        work: str,
        mine: Sequence[float],
        unit: str,
        name: str,
        other: Sequence[float],
        goal: Goal,
    ) -> None:
        """Print a figure beside another's; the goal is of the difference."""
        more = [a - b for a, b in zip(mine, other, strict=True)]
        verdict = self._verdict(work, statistics.median(more), goal, name)
        cells = (shown(mine, unit), f"{name}: {shown(other, unit)}", shown(more, f"{unit} more"))
        self._print(work, *cells, f"{goal} {unit} more", verdict)

    def end(self) -> None:
        """Print how many goals were reached, and what was left out."""
        say(f"\n{self.reached} of {self.reached + len(self.missed)} goals reached.")
        for missed in self.missed:
            say(f"* not reached: {missed}")
        for note in self.notes:
            say(f"* {note}")
        for name in self.left_out:
            say(f"* left out: {name}")

    def _verdict(self, work: str, value: float, goal: Goal, name: str = "") -> str:
        good = goal.reached(value)
        if not goal.aim:
            self.reached += good
            if not good:
                against = f" beside {name}" if name else ""
                self.missed.append(f"{work}{against}: {value:.3g}, goal {goal}")
        return "reached" if good else "**not reached**" if not goal.aim else "not yet"

    def _print(self, *cells: str) -> None:
        self.lines.append(list(cells))
        say("| " + " | ".join(cells) + " |")
