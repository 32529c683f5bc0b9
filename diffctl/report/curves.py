"""Curves on a logarithmic axis, as SVG text."""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

Curve = Sequence[tuple[float, float]]
_Place = Callable[[float, float], tuple[float, float]]

_WIDTH, _HEIGHT = 760.0, 280.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 64.0, 110.0, 14.0, 44.0
_COLOURS = ("var(--accent)", "#d9803a", "#7a6ff0", "#c2476b")


def curves_svg(curves: Mapping[str, Curve], *, x_label: str, y_label: str) -> str:
    """Return an SVG element with the curves, their names at the right ends.

    Args:
        curves: name -> points (x, y); points with y <= 0 or not finite are left out.
        x_label: of the linear axis.
        y_label: of the logarithmic axis.
    """
    clean = {
        name: [(x, y) for x, y in points if math.isfinite(y) and y > 0]
        for name, points in curves.items()
    }
    points = [point for curve in clean.values() for point in curve]
    if not points:
        return ""
    x_most = max(x for x, _ in points) or 1.0
    low = math.floor(math.log10(min(y for _, y in points)))
    high = max(math.ceil(math.log10(max(y for _, y in points))), low + 1)

    def place(x: float, y: float) -> tuple[float, float]:
        right = _LEFT + x / x_most * (_WIDTH - _LEFT - _RIGHT)
        share = (math.log10(y) - low) / (high - low)
        return right, _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    parts = [_grid_line(place, power) for power in range(low, high + 1)]
    step = _round_step(x_most / 5)
    parts += [_x_tick(place, step * i) for i in range(int(x_most / step) + 1)]
    ends: list[float] = []
    for (name, curve), colour in zip(clean.items(), _COLOURS, strict=False):
        if curve:
            parts.append(_curve([place(*p) for p in curve], name, colour, ends))
    parts.append(
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 6}" '
        f'text-anchor="middle">{escape(x_label)}</text>'
        f'<text transform="translate(14 {_HEIGHT / 2 - 14}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_label)}</text>'
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" '
        f'aria-label="{escape(y_label)} against {escape(x_label)}">'
        f"{''.join(parts)}</svg>"
    )


def _round_step(least: float) -> float:
    """Return the smallest of 1, 2, 5, 10, 20, 50, ... that is at least `least`."""
    power = 10.0 ** math.floor(math.log10(max(least, 1.0)))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= least)


def _grid_line(place: _Place, power: int) -> str:
    _, y = place(0, 10.0**power)
    number = f"{10.0**power:g}"
    return (
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
        f'stroke="var(--rule)"/><text x="{_LEFT - 8}" y="{y + 4:.1f}" '
        f'text-anchor="end">{number}</text>'
    )


def _x_tick(place: _Place, x: float) -> str:
    right, _ = place(x, 1.0)
    return (
        f'<text x="{right:.1f}" y="{_HEIGHT - _BOTTOM + 18}" '
        f'text-anchor="middle">{x:.0f}</text>'
    )


def _curve(
    points: list[tuple[float, float]], name: str, colour: str, ends: list[float]
) -> str:
    """Return a polyline with its name at the end, moved away from earlier names."""
    x_end, y_end = points[-1]
    while any(abs(y_end - other) < 14 for other in ends):
        y_end -= 14
    ends.append(y_end)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.2" '
        f'stroke-linejoin="round"/><text x="{x_end + 8:.1f}" y="{y_end + 4:.1f}" '
        f'style="fill:{colour};font-weight:600">{escape(name)}</text>'
    )
