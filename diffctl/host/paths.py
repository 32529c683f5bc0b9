"""Names on disk: where they lead, what is in the way, and what is cleared away."""

import contextlib
import itertools
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from diffctl.host.interruption import if_interrupted
from diffctl.host.locks import Say, locked


def warn(message: str) -> None:
    """Say something to who calls from Python."""
    warnings.warn(message, stacklevel=2)


def first_free(name: str | Path) -> Path:
    """Return `name`, `name-2`, `name-3`, ...: the first that does not exist."""
    names = (Path(name if i == 1 else f"{name}-{i}") for i in itertools.count(1))
    return next(path for path in names if not os.path.lexists(path))


def followed(out: Path) -> Path:
    """Return where a path leads to."""
    try:
        found = out.resolve()
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{out} leads nowhere: {error}. Choose another.") from error
    if found.is_symlink():
        raise ValueError(f"{out} is a link that leads back to itself; choose another.")
    return found


def check_folder(folder: Path) -> None:
    """Raise unless the folder exists or can be made as far as names go."""
    found = next(path for path in (folder, *folder.parents) if path.exists())
    if not found.is_dir():
        raise NotADirectoryError(
            f"{found} is a file where a folder is expected; choose another place."
        )


@contextlib.contextmanager
def parents_of(out: Path) -> Iterator[None]:
    """Remove at the end the folders above `out` that came into being in vain."""
    missing = [path for path in out.parents if not path.exists()]

    def remove() -> None:
        with contextlib.suppress(OSError):  # not empty: not in vain
            for path in missing:
                path.rmdir()

    with if_interrupted(remove):
        try:
            yield
        finally:
            remove()


def locked_beside(out: Path, say: Say) -> contextlib.AbstractContextManager[None]:
    """Hold a path by a lock file beside it."""
    return locked(out.with_name(f".{out.name}.lock"), out, say)


def delete(path: Path) -> None:
    """Delete a folder, even while a thread that nobody waits for adds to it."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    for _ in range(3):
        if path.exists():
            shutil.rmtree(path, ignore_errors=True)


def flush(path: Path) -> None:
    """Write through to the disk: a full one may not be noticed before."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def naming(out: Path) -> Iterator[None]:
    """Say of an error in writing, such as a full disk, what was being written."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(out)
        raise


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder that is gone afterwards, also after Ctrl-C."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with if_interrupted(lambda: delete(folder)):
            yield folder
