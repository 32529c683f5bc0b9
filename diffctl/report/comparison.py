"""The plain values of which figures and tables are made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Row:
    """One example of one task, as a row of pictures.

    Attributes:
        task: name for people.
        pictures: column -> image in [-1, 1], (H, W, C), or None where there is none.
        captions: column -> a short text under the picture.
    """

    task: str
    pictures: Mapping[str, np.ndarray | None]
    captions: Mapping[str, str]


@dataclass(frozen=True)
class Comparison:
    """Rows of pictures with the same columns, in order.

    Attributes:
        columns: names of the columns.
        rows: examples of the same task lie together.
    """

    columns: Sequence[str]
    rows: Sequence[Row]

    def by_task(self) -> list[tuple[str, list[Row]]]:
        """Return the rows grouped by task, in order."""
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            groups.setdefault(row.task, []).append(row)
        return list(groups.items())
