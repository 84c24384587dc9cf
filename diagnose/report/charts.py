"""What was measured around an incident, drawn as SVG: lines over time, and the moments that count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape

import msgspec

from diagnose.model.text import Text

_WIDTH, _HEIGHT = 640, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 24
_MOST_POINTS = 400
_COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b83280", "#4a5568")

Points = Sequence[tuple[datetime, float]]


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """Lines over the same time.

    Attributes:
        unit: Behind the numbers of the axis.
        lines: Name to points, oldest first.
        most: Where the axis ends, if that is known (the size of a card).
        marks: Moments with their names: first symptom, restart, ready.
    """

    title: Text
    unit: str
    lines: Mapping[str, Points]
    most: float | None = None
    marks: tuple[tuple[datetime, str], ...] = ()


def draw(chart: Chart) -> str:
    """Draw a chart as an ``<svg>`` element without scripts or links; names are escaped."""
    points = [point for line in chart.lines.values() for point in line]
    if not points:
        return ""
    first, last = min(at for at, _ in points), max(at for at, _ in points)
    most = max([chart.most or 0.0, 1e-9, *(value for _, value in points)])
    scale = _Scale(first, last, most)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" preserveAspectRatio="xMidYMid meet">',
        *_axes(scale, chart.unit),
        *(_mark(scale, at, name) for at, name in chart.marks if first <= at <= last),
        *(
            f'<polyline fill="none" stroke="{_COLOURS[place % len(_COLOURS)]}" stroke-width="1.5" '
            f'points="{" ".join(scale.at(at, value) for at, value in thinned(line))}"/>'
            for place, line in enumerate(chart.lines.values())
        ),
        *_legend(chart),
        "</svg>",
    ]
    return "".join(parts)


def thinned(line: Points) -> Points:
    """Return at most 400 points: of each stretch of time the highest, which is what hurts.

    >>> from datetime import timezone
    >>> at = datetime(2026, 1, 1, tzinfo=timezone.utc)
    >>> len(thinned([(at, float(n)) for n in range(4000)]))
    400
    """
    if len(line) <= _MOST_POINTS:
        return line
    size = len(line) / _MOST_POINTS
    stretches = (line[int(place * size) : int((place + 1) * size)] for place in range(_MOST_POINTS))
    return [max(stretch, key=lambda point: point[1]) for stretch in stretches]


class _Scale:
    """From times and values to places."""

    def __init__(self, first: datetime, last: datetime, most: float) -> None:
        self.first, self.last, self.most = first, last, most
        self.seconds = max((last - first).total_seconds(), 1.0)

    def x(self, at: datetime) -> float:
        share = (at - self.first).total_seconds() / self.seconds
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _TOP + (1 - min(value / self.most, 1.0)) * (_HEIGHT - _TOP - _BOTTOM)

    def at(self, at: datetime, value: float) -> str:
        return f"{self.x(at):.1f},{self.y(value):.1f}"


def _axes(scale: _Scale, unit: str) -> list[str]:
    low = _HEIGHT - _BOTTOM
    told = [
        f'<path d="M{_LEFT} {_TOP}V{low}H{_WIDTH - _RIGHT}" fill="none" stroke="#a0aec0"/>',
        _text(_LEFT - 4, _TOP + 8, f"{scale.most:.3g} {unit}", "end"),
        _text(_LEFT - 4, low, "0", "end"),
        _text(_LEFT, _HEIGHT - 8, f"{scale.first:%H:%M:%S}", "start"),
        _text(_WIDTH - _RIGHT, _HEIGHT - 8, f"{scale.last:%H:%M:%S} UTC", "end"),
    ]
    middle = scale.y(scale.most / 2)
    told.append(f'<path d="M{_LEFT} {middle:.1f}H{_WIDTH - _RIGHT}" stroke="#e2e8f0" stroke-dasharray="3 3"/>')
    return told


def _mark(scale: _Scale, at: datetime, name: str) -> str:
    x = scale.x(at)
    line = f'<path d="M{x:.1f} {_TOP}V{_HEIGHT - _BOTTOM}" stroke="#e53e3e" stroke-dasharray="2 3"/>'
    side = "end" if x > _WIDTH * 0.75 else "start"
    return line + _text(x + (3 if side == "start" else -3), _TOP + 8, name, side, "#c53030")


def _legend(chart: Chart) -> list[str]:
    if len(chart.lines) < 2:
        return []
    return [
        _text(_LEFT + 6 + 110 * place, _HEIGHT - _BOTTOM - 6, name, "start", _COLOURS[place % len(_COLOURS)])
        for place, name in enumerate(chart.lines)
    ]


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#4a5568") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="10">{escape(text)}</text>'
