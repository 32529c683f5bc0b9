"""Single files that appear whole, and folders that a run fills file by file."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from diffctl.host.interruption import if_interrupted, whole
from diffctl.host.locks import Say, locked
from diffctl.host.paths import (
    check_folder,
    flush,
    followed,
    locked_beside,
    naming,
    parents_of,
    warn,
)


@contextlib.contextmanager
def new_file(path: Path, *, overwrite: bool = True, say: Say = warn) -> Iterator[Path]:
    """Yield where to write what becomes the file `path` if nothing is raised.

    Raises:
        FileExistsError: there is a folder, or a file and `overwrite` is false.
        InUseError: another run writes it.
    """
    out = followed(path)
    scratch = out.with_name(f".{out.name}.partial")

    def check() -> None:
        if out.is_dir() or (out.exists() and not overwrite):
            raise FileExistsError(f"{path} exists; choose another file.")

    def drop() -> None:
        scratch.unlink(missing_ok=True)

    check_folder(out.parent)
    check()
    with parents_of(out), locked_beside(out, say), if_interrupted(drop):
        try:
            with naming(path):
                yield scratch
                flush(scratch)
            with whole():
                check()
                os.replace(scratch, out)
        finally:
            drop()


@contextlib.contextmanager
def held(folder: Path, say: Say = warn) -> Iterator[None]:
    """Hold a folder that a run fills file by file; made if need be, but not in vain.

    Raises:
        InUseError: another run fills it.
        OSError: nothing can be written there.
    """
    lock = followed(folder) / ".lock"
    check_folder(lock.parent)
    with parents_of(lock), locked(lock, folder, say):
        yield
