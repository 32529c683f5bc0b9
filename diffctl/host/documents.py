"""JSON as everybody writes and reads it, and archives of arrays.

Numbers that are not finite are null in JSON.
"""

import json
import math
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


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
        ValueError: the file is empty, cut short or no JSON.
    """
    text = path.read_bytes()
    if not text.strip():
        raise ValueError(f"{path} is not valid JSON: it is empty.")
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from error


def read_arrays(
    path: Path, names: Iterable[str] | None = None
) -> dict[str, "np.ndarray"]:
    """Read an `.npz` archive of plain arrays; nothing in it is executed.

    Args:
        path: the file.
        names: of the arrays; None for all.

    Raises:
        ValueError: it is no such archive, is damaged, or lacks an array.
    """
    import numpy as np

    try:
        with path.open("rb") as file:
            start = file.read(len(np.lib.format.MAGIC_PREFIX))
            if start == np.lib.format.MAGIC_PREFIX:
                raise ValueError("it is a single array")
            if not zipfile.is_zipfile(file):
                raise ValueError("it is cut short or not an archive at all")
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            wanted = list(archive.files if names is None else names)
            missing = [name for name in wanted if name not in archive.files]
            if not missing:
                return {name: archive[name] for name in wanted}
            held = archive.files
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is no .npz of plain arrays: {error}.") from error
    raise ValueError(f"{path} has no array {missing}; it holds {held}.")
