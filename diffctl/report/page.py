"""A page of HTML in one file: text, tables, pictures, curves, nothing from outside."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from diffctl.host import to_json
from diffctl.report.comparison import Comparison, Row
from diffctl.report.curves import curves_svg
from diffctl.report.pictures import data_uri, to_png
from diffctl.report.style import CSS


class Page:
    """A page that grows from top to bottom; `html()` returns the file.

    All text is escaped; `paragraph` alone knows a mark, `code` between back-ticks.
    """

    def __init__(self, title: str, lead: str):
        self._title = title
        self._parts = [f"<h1>{escape(title)}</h1>"]
        self.paragraph(lead, style="lead")

    def heading(self, text: str) -> None:
        """Begin a section."""
        self._parts.append(f"<h2>{escape(text)}</h2>")

    def paragraph(self, text: str, style: str = "") -> None:
        """Add a paragraph; `style` is a class of the style sheet."""
        self._parts.append(f'<p class="{style}">{_inline(text)}</p>')

    def cards(self, cards: Mapping[str, str]) -> None:
        """Add large numbers, explanation -> number, side by side."""
        inner = "".join(
            f'<div class="card"><b>{escape(number)}</b>'
            f"<span>{escape(text)}</span></div>"
            for text, number in cards.items()
        )
        self._parts.append(f'<div class="cards">{inner}</div>')

    def comparison(
        self, comparison: Comparison, explanations: Mapping[str, str]
    ) -> None:
        """Add the pictures of a comparison, a box per task.

        Args:
            comparison: the pictures.
            explanations: task -> a sentence about it.
        """
        for task, rows in comparison.by_task():
            text = escape(explanations.get(task, ""))
            inner = "".join(_row(comparison.columns, row) for row in rows)
            self._parts.append(
                f'<section class="task"><h3>{escape(task)}</h3>'
                f'<p class="soft">{text}</p><div class="rows">{inner}</div></section>'
            )

    def table(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[str]],
        *,
        text_columns: int = 1,
        best: Iterable[tuple[int, int]] = (),
    ) -> None:
        """Add a table.

        Args:
            columns: headings.
            rows: cells as text, as many as headings.
            text_columns: how many columns on the left are text, not numbers.
            best: cells to be marked, (row, column).
        """
        marked = set(best)
        head = "".join(
            f'<th class="{"text" if j < text_columns else ""}">{escape(name)}</th>'
            for j, name in enumerate(columns)
        )
        body, above = "", None
        for i, row in enumerate(rows):
            cells = "".join(
                f'<td class="{"text" if j < text_columns else ""}'
                f'{" best" if (i, j) in marked else ""}">{escape(cell)}</td>'
                for j, cell in enumerate(row)
            )
            body += f'<tr class="{"first" if above not in (None, row[0]) else ""}">'
            body += f"{cells}</tr>"
            above = row[0]
        self._parts.append(
            f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )

    def settings(self, settings: Mapping[str, Any]) -> None:
        """Add a table of names and values."""
        body = "".join(
            f"<tr><td>{escape(name)}</td><td>{escape(str(value))}</td></tr>"
            for name, value in settings.items()
        )
        self._parts.append(f'<table class="settings"><tbody>{body}</tbody></table>')

    def curves(
        self,
        curves: Mapping[str, Sequence[tuple[float, float]]],
        *,
        x_label: str,
        y_label: str,
    ) -> None:
        """Add curves on a logarithmic axis, name -> points (x, y), y > 0."""
        self._parts.append(curves_svg(curves, x_label=x_label, y_label=y_label))

    def document(self, summary: str, value: Any) -> None:
        """Add JSON that unfolds on a click."""
        text = escape(to_json(value).rstrip())
        self._parts.append(
            f"<details><summary>{escape(summary)}</summary><pre>{text}</pre></details>"
        )

    def footer(self, text: str) -> None:
        """Add the last line."""
        self._parts.append(f'<footer class="soft">{_inline(text)}</footer>')

    def html(self) -> str:
        """Return the file."""
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(self._title)}</title>\n<style>{CSS}</style></head>\n"
            f"<body><main>\n{chr(10).join(self._parts)}\n</main></body></html>\n"
        )


def _inline(text: str) -> str:
    """Escape text and turn every second piece between back-ticks into code."""
    pieces = escape(text).split("`")
    return "".join(
        f"<code>{piece}</code>" if i % 2 else piece for i, piece in enumerate(pieces)
    )


def _row(columns: Sequence[str], row: Row) -> str:
    shown = [name for name in columns if name in row.pictures or name in row.captions]
    return f'<div class="row">{"".join(_figure(name, row) for name in shown)}</div>'


def _figure(name: str, row: Row) -> str:
    image = row.pictures.get(name)
    caption = escape(row.captions.get(name, ""))
    if image is None:
        return f'<figure><div class="words">{caption}</div></figure>'
    return (
        f'<figure><img alt="{escape(f"{row.task}: {name}")}" '
        f'src="{data_uri(to_png(image))}">'
        f"<figcaption>{escape(name)}<span>{caption}</span></figcaption></figure>"
    )
