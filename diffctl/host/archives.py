"""Archives of arrays (`.npz`) that may come from anywhere.

Every array is compared with the table of contents before memory is spent on it: an
archive tells in some hundred bytes how large its arrays are, and may lie.
"""

import contextlib
import math
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_SUFFIX = ".npy"
_ENCRYPTED = 1  # the flag of a member
# What is compressed better is not expanded: it may be made to fill the memory.
_MOST_COMPRESSION, _FREE_BYTES = 10, 1 << 25


def read_arrays(
    path: Path, names: Iterable[str] | None = None
) -> dict[str, "np.ndarray"]:
    """Read an `.npz` archive of plain arrays; nothing in it is executed.

    Args:
        path: the file.
        names: of the arrays; None for all.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such archive, is damaged, encrypted, holds objects or lacks
            an array, or it is compressed so well that it may be made to do harm.
    """
    with path.open("rb") as file, _blaming(path), _opened(file) as archive:
        held = {
            member.filename.removesuffix(_SUFFIX): member
            for member in archive.infolist()
            if member.filename.endswith(_SUFFIX)
        }
        wanted = list(held if names is None else names)
        missing = [name for name in wanted if name not in held]
        if not missing:
            members = {name: held[name] for name in wanted}
            _check_sizes(path, members.values())
            return {name: _read(archive, m, name) for name, m in members.items()}
    raise ValueError(f"{path} has no array {missing}; it holds {list(held)}.")


@contextlib.contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Say of every error in reading an archive which file is no good."""
    try:
        yield
    except _TooDense as error:
        raise ValueError(f"{path} {error}.") from error
    except _Unreadable as error:
        raise ValueError(f"{path} is no .npz of plain arrays: {error}.") from error
    except Exception as error:  # zipfile and numpy raise what their parsers raise
        raise ValueError(
            f"{path} is no .npz of plain arrays: it is damaged. Make it again by "
            "`numpy.savez`."
        ) from error


class _Unreadable(Exception):
    """What is wrong with an archive, in words."""


class _TooDense(Exception):
    """How much larger than the archive its arrays would be, in words."""


@contextlib.contextmanager
def _opened(file: IO[bytes]) -> Iterator[zipfile.ZipFile]:
    import numpy as np

    if file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX:
        raise _Unreadable("it is a single array")
    if not zipfile.is_zipfile(file):
        raise _Unreadable("it is cut short or not an archive at all")
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        yield archive


def _check_sizes(path: Path, members: Iterable[zipfile.ZipInfo]) -> None:
    claimed = sum(member.file_size for member in members)
    most = max(_FREE_BYTES, _MOST_COMPRESSION * path.stat().st_size)
    if claimed > most:
        raise _TooDense(
            f"is compressed more than {_MOST_COMPRESSION}-fold: its arrays would take "
            f"{claimed} bytes, and at most {most} are made of {path.stat().st_size}; "
            "if you trust it, save it again by `numpy.savez`, which does not compress"
        )


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> "np.ndarray":
    import numpy as np

    if member.flag_bits & _ENCRYPTED:
        raise _Unreadable("it is encrypted; save it without a password")
    with archive.open(member) as stream:
        shape, dtype = _header(stream)
        if dtype.hasobject:
            raise _Unreadable(
                f"{name} holds Python objects (pickled), which are not loaded; save it "
                "as an array of numbers"
            )
        size = math.prod(shape) * dtype.itemsize
        if stream.tell() + size != member.file_size:
            raise _Unreadable(
                f"{name} claims to be {dtype} of shape {shape}, which is not what its "
                f"{member.file_size} bytes hold"
            )
        stream.seek(0)
        return np.lib.format.read_array(stream, allow_pickle=False)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], "np.dtype"]:
    from numpy.lib import format as npy

    version = npy.read_magic(stream)
    old = version == (1, 0)
    read = npy.read_array_header_1_0 if old else npy.read_array_header_2_0
    shape, _, dtype = read(stream)
    return shape, dtype
