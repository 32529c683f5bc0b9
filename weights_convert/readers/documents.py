"""JSON in checkpoints and beside them, of a bounded size and depth."""

import json
import re
from itertools import chain
from typing import Any

from weights_convert.readers.tensors import CheckpointError, show

# Some 100 bytes for each tensor, and what trainers note as text.
MAX_JSON_BYTES = 1 << 23
# Each is worth up to 200 bytes once it is parsed; a tensor in a header takes ten.
MAX_JSON_MARKS = 100_000
_PART = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[,[{]', re.DOTALL)
# Configurations nest five or six deep; what is done with the values may recurse.
MAX_JSON_DEPTH = 64
_MAX_VALUES = 1 << 21  # at one depth; a header of 100 000 tensors has a tenth


def parse_json(text: memoryview | bytes, *, unique: bool = True) -> dict[str, Any]:
    """Return the object that some JSON describes.

    Args:
        text: UTF-8.
        unique: whether a key named twice is an error; otherwise the last counts.

    Raises:
        CheckpointError: if the text is damaged, too long or too deep, no object, or
            names a key twice.
    """
    if len(text) > MAX_JSON_BYTES:
        raise CheckpointError(
            f"{len(text)} bytes of JSON, at most {MAX_JSON_BYTES} are read; do not "
            "trust the file."
        )
    if len(text) > MAX_JSON_MARKS:
        _check_marks(text)
    try:
        hook = _unique if unique else dict
        found = json.loads(str(text, "utf-8"), object_pairs_hook=hook)
    except CheckpointError:
        raise
    except RecursionError as error:
        raise _too_deep() from error
    except ValueError as error:
        is_known = isinstance(error, json.JSONDecodeError | UnicodeDecodeError)
        reason = str(error) if is_known else "a number of thousands of digits"
        raise CheckpointError(
            f"damaged JSON: {show(reason)}; download the file again."
        ) from error
    if type(found) is not dict:
        raise CheckpointError("the JSON is no object; the file is damaged.")
    if not is_shallow(found):
        raise _too_deep()
    return found


def _check_marks(text: memoryview | bytes) -> None:
    """Count the commas and brackets outside of strings before anything is parsed."""
    quote, marks = ord('"'), 0
    for part in _PART.finditer(text):
        marks += text[part.start()] != quote
        if marks > MAX_JSON_MARKS:
            raise CheckpointError(
                f"JSON of more than {MAX_JSON_MARKS} values, which no header, index "
                "or configuration has; do not trust the file."
            )


def is_shallow(value: Any) -> bool:
    """Return whether a value is one that may be compared and printed.

    Those of a pickle may hold a value many times, or themselves.
    """
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        holders = [v for v in level if type(v) in (dict, list, tuple) and v]
        if not holders:
            return True
        if sum(map(len, holders)) > _MAX_VALUES:
            return False
        inside = (v.values() if type(v) is dict else v for v in holders)
        level = list(chain.from_iterable(inside))
    return False


def _too_deep() -> CheckpointError:
    return CheckpointError(
        f"damaged JSON: it is nested more than {MAX_JSON_DEPTH} deep, as no header, "
        "index or configuration is; do not trust the file."
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise CheckpointError("the JSON names a key twice; do not trust the file.")
    return found
