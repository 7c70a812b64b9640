"""Line charts with logarithmic axes, side by side, as SVG text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 380, 300, 64, 44, 52
COLOURS = ("#1f6f8b", "#c8553d", "#588157", "#7a4fa3", "#b8860b", "#444444", "#d36fa0", "#3aa6a0")


@dataclass(frozen=True, slots=True)
class Series:
    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True, slots=True)
class Axis:
    """Decades that cover all values, laid over pixels from `start` to `end`."""

    low: int
    high: int
    start: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float) -> Axis:
        low, high = floor(log10(min(values))), ceil(log10(max(values)))
        return cls(low, max(high, low + 1), start, end)

    def at(self, value: float) -> float:
        return self.start + (self.end - self.start) * (log10(value) - self.low) / (self.high - self.low)


def log_log(panels: Sequence[tuple[str, Sequence[Series]]], x_title: str) -> str:
    """One panel per (title, series)."""
    body = "".join(
        f'<g transform="translate({number * WIDTH} 0)">{panel(title, series, x_title)}</g>'
        for number, (title, series) in enumerate(panels)
    )
    size = f'width="{WIDTH * len(panels)}" height="{HEIGHT}" viewBox="0 0 {WIDTH * len(panels)} {HEIGHT}"'
    style = 'font-family="system-ui, sans-serif" font-size="11" fill="#333"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}><rect width="100%" height="100%" fill="#fff"/>{body}</svg>\n'


def panel(title: str, series: Sequence[Series], x_title: str) -> str:
    xs = Axis.over([x for line in series for x in line.x], LEFT, WIDTH - 24)
    ys = Axis.over([y for line in series for y in line.y], HEIGHT - BOTTOM, TOP)
    parts = [f'<text x="{LEFT}" y="22" font-size="13" font-weight="600">{escape(title)}</text>', grid(xs, ys)]
    parts += [curve(line, xs, ys, COLOURS[number % len(COLOURS)], number) for number, line in enumerate(series)]
    middle = (LEFT + WIDTH - 24) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 14}" text-anchor="middle">{escape(x_title)}</text>')
    return "".join(parts)


def grid(xs: Axis, ys: Axis) -> str:
    parts = []
    for power in range(xs.low, xs.high + 1):
        x = xs.at(10.0**power)
        parts.append(f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{10**power:,}</text>')
    for power in range(ys.low, ys.high + 1):
        y = ys.at(10.0**power)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - 24}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:,g}</text>')
    return "".join(parts)


def curve(line: Series, xs: Axis, ys: Axis, colour: str, number: int) -> str:
    points = [(xs.at(x), ys.at(y)) for x, y in zip(line.x, line.y, strict=True)]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"><title>{x_value:,.0f}: {y_value:,.3g}</title></circle>'
        for (x, y), x_value, y_value in zip(points, line.x, line.y, strict=True)
    )
    column, row = divmod(number, 4)
    spot = f'x="{LEFT + 10 + 110 * column}" y="{TOP + 14 + 15 * row}"'
    label = f'<text {spot} fill="{colour}">{escape(line.name)}</text>'
    return f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>{dots}{label}'
