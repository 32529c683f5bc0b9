"""Names given on the command line, looked up in a table."""

import difflib
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def lookup(kind: str, name: str, table: Mapping[str, T]) -> T:
    """Return the entry called `name`; raise `ValueError` naming the nearest for others.

    Args:
        kind: what the table holds, for the message, e.g. "task".
        name: as given by the user.
        table: what can be chosen.
    """
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=1, cutoff=0)[0]
    raise ValueError(
        f"There is no {kind} called {name!r}; did you mean {near!r}? Known: "
        f"{', '.join(table)}."
    )
