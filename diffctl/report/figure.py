"""The figure: truth, measurement and reconstructions, a row per task."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffctl.host import new_file
from diffctl.report.comparison import Comparison, Row
from diffctl.report.pictures import to_uint8

INK, SOFT, RULE = "#1d2430", "#6a7486", "#e3e6ec"
_CELL = 1.0  # inches of a picture
_GAP, _BLOCK_GAP, _LABEL, _TOP, _CAPTION = 0.10, 0.42, 1.65, 0.95, 0.30


def comparison_figure(
    comparison: Comparison, *, title: str, subtitle: str, dpi: int = 200
) -> bytes:
    """Draw the pictures of a comparison and return a PNG file.

    One line per task; its examples stand side by side as blocks of the same columns.
    Every picture has the same grey scale, black -1 and white 1, without stretching.

    Args:
        comparison: what to show; at least one row.
        title: large line.
        subtitle: small line under it.
        dpi: pixels per inch of the file.
    """
    groups = comparison.by_task()
    blocks = max(len(rows) for _, rows in groups)
    block_width = len(comparison.columns) * (_CELL + _GAP) - _GAP
    width = _LABEL + blocks * (block_width + _BLOCK_GAP)
    height = _TOP + len(groups) * (_CELL + _CAPTION) + 0.12
    figure = blank_figure(width, height)
    pen = _Pen(figure, width, height)
    pen.text(0.18, 0.30, title, size=15, weight="bold", color=INK)
    pen.text(0.18, 0.56, subtitle, size=9, color=SOFT)
    for line, (task, rows) in enumerate(groups):
        top = _TOP + line * (_CELL + _CAPTION)
        pen.text(0.18, top + _CELL / 2, _wrapped(task), size=10.5, color=INK)
        for block, row in enumerate(rows):
            left = _LABEL + block * (block_width + _BLOCK_GAP)
            _draw_row(pen, left, top, comparison.columns, row, heading=line == 0)
    buffer = io.BytesIO()
    figure.set_dpi(dpi)
    figure.canvas.print_png(buffer)
    return buffer.getvalue()


def blank_figure(width: float, height: float, **options: Any) -> Any:
    """Return a white matplotlib figure, sizes in inches, that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white", **options)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: Path, dpi: int = 100) -> None:
    """Write a matplotlib figure as a PNG file, in one step."""
    with new_file(path) as scratch:
        figure.savefig(scratch, dpi=dpi, format="png")


class _Pen:
    """Places things by inches from the upper left corner."""

    def __init__(self, figure: Any, width: float, height: float):
        self._figure, self._width, self._height = figure, width, height

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        style = {"va": "center", "ha": "left"} | style
        self._figure.text(x / self._width, 1 - y / self._height, text, **style)

    def picture(self, x: float, y: float, image: np.ndarray) -> None:
        place = (
            x / self._width,
            1 - (y + _CELL) / self._height,
            _CELL / self._width,
            _CELL / self._height,
        )
        axes = self._figure.add_axes(place)
        pixels = to_uint8(image)
        pixels = pixels.repeat(3, axis=-1) if pixels.shape[-1] == 1 else pixels
        axes.imshow(pixels, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(color=RULE, linewidth=0.6)


def _draw_row(
    pen: _Pen,
    left: float,
    top: float,
    columns: Sequence[str],
    row: Row,
    *,
    heading: bool,
) -> None:
    for i, column in enumerate(columns):
        x = left + i * (_CELL + _GAP)
        middle = x + _CELL / 2
        if heading:
            pen.text(middle, top - 0.13, column, size=9, color=SOFT, ha="center")
        image = row.pictures.get(column)
        caption, below = row.captions.get(column, ""), top + _CELL + 0.11
        if image is None:
            pen.text(middle, top + _CELL / 2, caption, size=9, color=SOFT, ha="center")
            continue
        pen.picture(x, top, image)
        pen.text(middle, below, caption, size=7.5, color=SOFT, ha="center")


def _wrapped(task: str) -> str:
    """Break a name before its last word if it is long."""
    head, _, tail = task.rpartition(" ")
    return f"{head}\n{tail}" if head and len(task) > 14 else task
