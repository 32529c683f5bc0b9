"""Settings that a paper gives per task."""

import difflib
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def for_task(settings: Mapping[str, T], task: str) -> T:
    """Return the entry of a task; raise `ValueError` naming the nearest for another."""
    if task not in settings:
        near = difflib.get_close_matches(task, settings, n=1, cutoff=0)[0]
        raise ValueError(
            f"There are no published settings for the task {task!r}; did you mean "
            f"{near!r}? Known: {', '.join(settings)}."
        )
    return settings[task]
