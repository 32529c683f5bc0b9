"""JSON as everybody writes and reads it: numbers that are not finite are null.

What is read may come from anywhere. Nothing is made of a document that would take much
more memory than its text.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MOST_BYTES = 1 << 26
MOST_LEVELS = 64  # of lists and tables in one another
_FREE_VALUES = 100_000  # in a text of any length
# Bytes that Python needs at most for what follows a mark: a number or a short string
# in a list, a name, a list or a table.
_COSTS = {b",": 64, b":": 100, b"[": 200, b"{": 200}
_MOST_COST = 10  # times the text
_MOST_DIGITS = 400  # beyond all floats; Python would refuse from 4300 on


def plain(value: Any) -> Any:
    """Return what JSON makes of a value, null for numbers that are not finite.

    Arrays and their scalars become lists and numbers, paths become text.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def to_json(document: Any) -> str:
    """Return a document as the text of a file: valid JSON, whatever it holds."""
    return json.dumps(plain(document), indent=2, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """Read a document; NaN and infinities, which are no JSON, are null here too.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as `parse_json`.
    """
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(
            f"{path} has {path.stat().st_size} bytes; at most {MOST_BYTES} of JSON are "
            "read. Check that it is the right file."
        )
    return parse_json(path.read_bytes(), str(path))


def parse_json(text: bytes, whose: str, *, free_values: int = _FREE_VALUES) -> Any:
    """Return what a text describes.

    Args:
        text: in UTF-8, as all JSON.
        whose: what it is the text of, for the message.
        free_values: how many values a text of any length may have.

    Raises:
        ValueError: the text is empty, cut short or no JSON, or it has far more values
            than its length explains, or too many levels.
    """
    if not text.strip():
        raise ValueError(f"{whose} is not valid JSON: it is empty.")
    # Strings may hold these marks as well: then it is less.
    needed = sum(cost * text.count(mark) for mark, cost in _COSTS.items())
    if needed > max(free_values * _COSTS[b"["], _MOST_COST * len(text)):
        raise ValueError(
            f"{whose} would take some {needed >> 20} MiB of memory, far more than its "
            f"{len(text)} bytes of JSON explain; do not trust it."
        )
    try:
        found = json.loads(text, parse_constant=lambda _: None, parse_int=_whole_number)
    except UnicodeDecodeError as error:
        raise ValueError(f"{whose} is not valid JSON: it is no text.") from error
    except RecursionError:
        found = None
    except ValueError as error:
        raise ValueError(f"{whose} is not valid JSON: {error}.") from error
    else:
        if _levels(found) <= MOST_LEVELS:
            return found
    raise ValueError(
        f"{whose} has more than {MOST_LEVELS} levels of lists and tables in one "
        "another; do not trust it."
    )


def _whole_number(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a whole number has {len(digits)} digits")
    return int(digits)


def _levels(document: Any) -> int:
    """Count the levels of lists and tables, up to one more than are allowed."""
    level, count = [document], 0
    while count <= MOST_LEVELS:
        inner = [value for value in level if isinstance(value, dict | list)]
        if not inner:
            break
        count += 1
        level = [
            each
            for value in inner
            for each in (value.values() if isinstance(value, dict) else value)
        ]
    return count
