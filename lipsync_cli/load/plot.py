"""Draws curves over axes as an SVG file, with no more than text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

Point = tuple[float, float]

COLOURS = ("#1f6feb", "#d9822b", "#b42318", "#3d7a3d")
WIDTH, PANEL_HEIGHT = 860, 340
LEFT, RIGHT, TOP, BOTTOM = 78, 46, 72, 52
_STYLE = "text { font: 13px sans-serif; fill: #1c2024 } .title { font-size: 15px; font-weight: 600 } .tick { fill: #5b636a }"


@dataclass(frozen=True)
class Axis:
    """A range of values. Logarithmic ones begin above 0 and show what is less at their beginning."""

    label: str
    first: float
    last: float
    logarithmic: bool = False
    whole: bool = False
    """Ticks are whole numbers."""

    def share(self, value: float) -> float:
        """Returns the place of a value, from 0 at the beginning to 1 at the end, and not beyond."""
        scale: Callable[[float], float] = math.log10 if self.logarithmic else float
        value = min(max(value, self.first), self.last)
        return (scale(value) - scale(self.first)) / (scale(self.last) - scale(self.first))

    def ticks(self) -> list[float]:
        """Returns round values in the range."""
        if self.logarithmic:
            decades = range(math.floor(math.log10(self.first)), math.ceil(math.log10(self.last)) + 1)
            steps = (1,) if len(decades) > 4 else (1, 2, 5)
            values = [step * 10.0**decade for decade in decades for step in steps]
        else:
            step = _round_step(max((self.last - self.first) / 8, 1.0 if self.whole else 0.0))
            values = [number * step for number in range(math.ceil(self.first / step), math.floor(self.last / step) + 1)]
        return [value for value in values if self.first <= value <= self.last * (1 + 1e-9)]


@dataclass(frozen=True)
class Curve:
    """Points that are joined, or marked alone."""

    label: str
    points: Sequence[Point]
    marks: bool = False


@dataclass(frozen=True)
class Panel:
    """One picture with its axes, and a curve for each of COLOURS at most.

    `limit` is drawn as a line across at this height, or upright where it is on x.
    """

    title: str
    x: Axis
    y: Axis
    curves: Sequence[Curve]
    limit: float | None = None
    limit_on_x: bool = False
    limit_label: str = ""


def milliseconds(values: Sequence[float], *, first: float, at_least: float) -> Axis:
    """Returns a logarithmic axis of milliseconds from `first` to beyond the largest value and `at_least`."""
    return Axis("ms", first, 1.25 * max([at_least, *values]), logarithmic=True)


def draw(panels: Sequence[Panel]) -> str:
    """Writes an SVG document with the panels below each other."""
    height = PANEL_HEIGHT * len(panels)
    drawn = "\n".join(
        f'<g transform="translate(0 {PANEL_HEIGHT * place})">\n{_panel(panel)}\n</g>' for place, panel in enumerate(panels)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">\n'
        f'<style>{_STYLE}</style>\n<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>\n{drawn}\n</svg>\n'
    )


def _panel(panel: Panel) -> str:
    right, bottom = WIDTH - RIGHT, PANEL_HEIGHT - BOTTOM

    def x_of(value: float) -> float:
        return LEFT + panel.x.share(value) * (right - LEFT)

    def y_of(value: float) -> float:
        return bottom - panel.y.share(value) * (bottom - TOP)

    parts = [_text(LEFT, 22, panel.title, "start", "title")]
    for value in panel.x.ticks():
        parts += [_line(x_of(value), TOP, x_of(value), bottom), _text(x_of(value), bottom + 19, f"{value:g}", "middle", "tick")]
    for value in panel.y.ticks():
        parts += [_line(LEFT, y_of(value), right, y_of(value)), _text(LEFT - 8, y_of(value) + 4, f"{value:g}", "end", "tick")]
    parts.append(_text((LEFT + right) / 2, bottom + 40, panel.x.label, "middle"))
    parts.append(f'<g transform="translate(18 {(TOP + bottom) / 2}) rotate(-90)">{_text(0, 0, panel.y.label, "middle")}</g>')
    if panel.limit is not None and panel.limit_on_x:
        place = x_of(panel.limit)
        parts += [_line(place, TOP, place, bottom, _LIMIT), _text(place, TOP - 6, panel.limit_label, "middle")]
    elif panel.limit is not None:
        place = y_of(panel.limit)
        parts += [_line(LEFT, place, right, place, _LIMIT), _text(right + 6, place + 4, panel.limit_label, "start")]
    legend_left = LEFT
    for curve, colour in zip(panel.curves, COLOURS, strict=False):
        parts += [_curve(curve, [(x_of(x), y_of(y)) for x, y in curve.points], colour), _legend(legend_left, curve, colour)]
        legend_left += 60 + _LETTER * len(curve.label)
    return "\n".join(parts)


_LETTER = 7  # pixels, the mean width
_GRID = 'stroke="#e3e6e9"'
_LIMIT = 'stroke="#1c2024" stroke-dasharray="6 4"'


def _curve(curve: Curve, points: Sequence[Point], colour: str) -> str:
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in points if curve.marks)
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"/>{dots}'


def _legend(left: int, curve: Curve, colour: str) -> str:
    return f'<rect x="{left}" y="36" width="18" height="4" fill="{colour}"/>' + _text(left + 25, 43, curve.label, "start")


def _line(x1: float, y1: float, x2: float, y2: float, style: str = _GRID) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {style}/>'


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(text)}</text>'


def _round_step(least: float) -> float:
    """Returns the smallest of 1, 2, 5, 10 ... that is no less."""
    decade = 10.0 ** math.floor(math.log10(least))
    return next(step * decade for step in (1, 2, 5, 10) if step * decade >= least * (1 - 1e-9))
