"""Tables for the terminal."""

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from weights_convert.convert import Conversion
from weights_convert.parity import Row
from weights_convert.readers import Checkpoint


def parity_table(title: str, rows: Iterable[Row]) -> Table:
    """Show comparisons: relative error, limit, largest error over the peak."""
    table = _table(title, "head", "quantity", "relative", "limit", "largest/peak", "")
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


def tensor_table(checkpoint: Checkpoint) -> Table:
    """List the tensors of a file."""
    table = _table(str(checkpoint.path.name), "tensor", "shape", "dtype")
    for name, tensor in checkpoint.tensors.items():
        table.add_row(Text(name), _shape(tensor.shape), str(tensor.dtype))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=Text(title), title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _shape(shape: Iterable[int]) -> str:
    return " x ".join(str(n) for n in shape) or "scalar"
