"""Output folders: nothing is overwritten unasked, and none is left half written."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

# One of these in a folder says that this program wrote it.
MARKERS = ("manifest.json", "results.json", "model.json")


def check_free(out: Path, *, overwrite: bool) -> None:
    """Raise unless `out` may be written.

    Raises:
        FileExistsError: it exists and `overwrite` is false, or it is not the output of
            an earlier run, which is never overwritten.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise FileExistsError(
            f"{out} exists; choose another --out, or pass --overwrite to replace it."
        )
    if not out.is_dir() or not any((out / name).is_file() for name in MARKERS):
        raise FileExistsError(
            f"{out} was not written by diffctl, so --overwrite does not replace it; "
            "choose another --out."
        )


def first_free(name: str) -> Path:
    """Return `name`, `name-2`, `name-3`, ...: the first that does not exist."""
    names = (Path(name if i == 1 else f"{name}-{i}") for i in count(1))
    return next(path for path in names if not path.exists())


@contextmanager
def new_folder(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield an empty folder that becomes `out` when the block ends without an error.

    Raises:
        FileExistsError: as `check_free`.
    """
    check_free(out, overwrite=overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        yield scratch
        scratch.chmod(0o755)
        replace(scratch, out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def replace(source: Path, out: Path) -> None:
    """Move the folder `source` to `out`, removing what is there."""
    if out.exists():
        shutil.rmtree(out)
    os.replace(source, out)
