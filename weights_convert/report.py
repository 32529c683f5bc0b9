"""What the program says: tables and sentences for the terminal."""

import math
from collections.abc import Iterable, Sequence
from itertools import islice

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from weights_convert.configs import CONFIGS
from weights_convert.convert import Conversion
from weights_convert.families.base import LATENT_PRIOR
from weights_convert.families.settings import HARMLESS, READ, readable
from weights_convert.inspection import SettingUse
from weights_convert.parity import Row
from weights_convert.readers import Checkpoint

_WIDTH = 60  # of a value
_MAX_ROWS = 4000  # the largest network has half as many; more take minutes to lay out


def print_wide(console: Console, table: Table) -> None:
    """Print a table without breaking names, if it goes to a file or a pipe."""
    if not console.is_terminal:
        console.width = max(
            console.width,
            Measurement.get(
                console, console.options.update(max_width=400), table
            ).maximum,
        )
    console.print(table)


def summary(conversion: Conversion) -> str:
    """Say what was recognised."""
    total = sum(math.prod(leaf.shape) for leaf in conversion.leaves.values())
    what = "latents" if conversion.plan.kind == LATENT_PRIOR else "images"
    return (
        f"{conversion.family.title}: {total:,} parameters, {what} of "
        f"{_shape(conversion.plan.shape)} (height, width, channels)"
    )


def mapping_summary(conversion: Conversion) -> str:
    """Say that the mapping is complete."""
    used = sum(map(len, conversion.sources.values()))
    buffers = len(conversion.plan.constants)
    rest = f", {buffers} buffers are as expected" if buffers else ""
    left_out = len(conversion.ignored)
    rest += f", {left_out} tensors of other networks are left out" if left_out else ""
    return (
        f"{used} tensors fill {len(conversion.leaves)} parameters, each once{rest}; "
        "nothing was written"
    )


def containers(checkpoint: Checkpoint) -> str:
    """Name the state dicts of a file; the selected one comes first."""
    selected = checkpoint.container
    others = [name for name in checkpoint.choices if name != selected]
    this = "the file itself" if selected == "." else f"{selected} (selected)"
    return ", ".join([this, *others])


def verdict(rows: Sequence[Row]) -> str:
    """Say how a comparison ended."""
    failed = sum(not row.passed for row in rows)
    if failed:
        return f"{failed} of {len(rows)} comparisons differ by more than the limit"
    return f"all {len(rows)} comparisons are within their limits"


def configs_table() -> Table:
    """List the built-in settings."""
    table = _table(
        "built-in settings, for --config", "--config", "family", "checkpoint"
    )
    for name, known in CONFIGS.items():
        table.add_row(name, known.family, Text(known.about))
    return table


def configs_markdown() -> str:
    """Return the same list in Markdown."""
    rows = [
        f"| `{name}` | `{known.family}` | {known.about} |"
        for name, known in CONFIGS.items()
    ]
    return "\n".join(
        ["| `--config` | family | checkpoint |", "| --- | --- | --- |", *rows]
    )


def parity_table(title: str, rows: Iterable[Row]) -> Table:
    """Show comparisons: relative L2 error, limit, largest error over the peak."""
    columns = ("head", "quantity", "relative error", "limit", "largest / peak", "")
    table = _table(title, *columns)
    for row in rows:
        table.add_row(
            row.head,
            row.quantity,
            f"{row.relative:.1e}",
            f"{row.limit:.1e}",
            f"{row.largest / row.peak:.1e}" if row.peak else "-",
            Text("ok", "green") if row.passed else Text("differs", "bold red"),
        )
    return table


def mapping_table(conversion: Conversion) -> Table:
    """Show which tensor fills which parameter."""
    table = _table("mapping", "tensor", "shape", "parameter", "shape", "transform")
    for path, sources in conversion.sources.items():
        leaf = conversion.leaves[path]
        for tensor, rule in sources:
            part = "" if rule.part is None else f"part {rule.part}"
            table.add_row(
                Text(tensor),
                _shape(conversion.tensors[tensor].shape),
                path,
                _shape(leaf.shape),
                ", ".join([*rule.transform, *([part] if part else [])]),
            )
    for name in conversion.ignored:
        table.add_row(Text(name), "", Text("left out: another network", "yellow"))
    return table


def settings_table(settings: Iterable[SettingUse]) -> Table:
    """List settings by their places, and what becomes of each."""
    table = _table("settings", "setting", "value", "use", "why")
    for place, value, (kind, reason) in settings:
        shown = repr(value)
        shown = shown if len(shown) <= _WIDTH else f"{shown[:_WIDTH]}..."
        style = "" if kind in (READ, HARMLESS) else "bold red"
        table.add_row(
            Text(readable(place)), Text(shown), Text(kind, style), Text(reason)
        )
    return table


def tensor_table(checkpoint: Checkpoint) -> Table:
    """List the tensors of a file."""
    table = _table(str(checkpoint.path.name), "tensor", "shape", "dtype")
    for name, tensor in islice(checkpoint.tensors.items(), _MAX_ROWS):
        table.add_row(Text(name), _shape(tensor.shape), str(tensor.dtype))
    if (more := len(checkpoint.tensors) - _MAX_ROWS) > 0:
        table.add_row(Text(f"... and {more:,} more"), "", "")
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=Text(title), title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _shape(shape: Iterable[int]) -> str:
    return " x ".join(str(n) for n in shape) or "scalar"
