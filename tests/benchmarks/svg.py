"""Line charts as SVG, written by hand: a picture for a README needs no library.

Both axes are logarithmic: the figures of a chart lie decades apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 80, 190, 50, 60
"""Margins; names of the lines stand at the right."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#555555")
"""Of Okabe and Ito (2008): people who are colour-blind tell them apart."""

APART = 16.0
"""Pixels between two names at least."""

FONT = 'font-family="sans-serif" font-size="13"'

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis.

    Parameters
    ----------
    low, high
        Values at its ends.
    start, stop
        Pixels of these.
    """

    low: float
    high: float
    start: float
    stop: float

    def at(self, value: float) -> float:
        """Return the pixel of a value."""
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.stop - self.start)


def chart(title: str, across: str, up: str, lines: dict[str, Points]) -> str:
    """Return a chart as the text of an SVG.

    Parameters
    ----------
    title, across, up
        Of the chart, of the axis below and of that at the left, with units.
    lines
        Points by name, all greater than 0. The values across are the ticks.
    """
    places = sorted({x for points in lines.values() for x, _ in points})
    heights = [y for points in lines.values() for _, y in points]
    low, high = math.floor(math.log10(min(heights))), math.ceil(math.log10(max(heights)))
    high = max(high, low + 1)
    x_axis = Axis(places[0], max(places[-1], places[0] * 1.01), LEFT, WIDTH - RIGHT)
    y_axis = Axis(10.0**low, 10.0**high, HEIGHT - BOTTOM, TOP)
    parts = [_text(LEFT, 26, title, "start", 'font-weight="bold"')]
    parts += _grid(x_axis, y_axis, places, range(low, high + 1))
    parts.append(_text((x_axis.start + x_axis.stop) / 2, HEIGHT - 14, across, "middle"))
    turned = f'transform="rotate(-90 18 {(TOP + HEIGHT - BOTTOM) / 2:.0f})"'
    parts.append(_text(18, (TOP + HEIGHT - BOTTOM) / 2, up, "middle", turned))
    ends = {name: y_axis.at(points[-1][1]) for name, points in lines.items()}
    heights_of = _spread(ends)
    for colour, (name, points) in zip(COLOURS, lines.items(), strict=False):
        pixels = [(x_axis.at(x), y_axis.at(y)) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in pixels)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>'
        )
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in pixels]
        parts.append(
            _text(WIDTH - RIGHT + 12, heights_of[name] + 4, name, "start", f'fill="{colour}"')
        )
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    white = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box} role="img" {FONT}>'
    return "\n".join([head, f"<title>{escape(title)}</title>", white, *parts, "</svg>", ""])


def _grid(x_axis: Axis, y_axis: Axis, places: list[float], powers: range) -> list[str]:
    parts = []
    for place in places:
        x = x_axis.at(place)
        parts.append(_line(x, y_axis.start, x, y_axis.stop))
        parts.append(_text(x, HEIGHT - BOTTOM + 20, f"{place:,.6g}", "middle"))
    for power in powers:
        y = y_axis.at(10.0**power)
        parts.append(_line(x_axis.start, y, x_axis.stop, y))
        parts.append(_text(LEFT - 8, y + 4, f"{10.0**power:,.6g}", "end"))
    return parts


def _spread(ends: dict[str, float]) -> dict[str, float]:
    """Return where names go: beside the ends of their lines, but not over each other."""
    found: dict[str, float] = {}
    lowest = -math.inf
    for name, wanted in sorted(ends.items(), key=lambda item: item[1]):
        lowest = found[name] = max(wanted, lowest + APART)
    return found


def _line(x: float, y: float, to_x: float, to_y: float) -> str:
    return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" stroke="#dddddd"/>'


def _text(x: float, y: float, words: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(words)}</text>'
