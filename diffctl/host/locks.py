"""One process at a time: a lock that ends with its holder, however that ends.

The system drops the lock of a process that dies. The file that carries it is deleted
by the holder; whoever locked a file that was deleted meanwhile tries again, so that two
never hold one lock under two files of one name.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from diffctl.host.interruption import if_interrupted

try:
    import fcntl
except ModuleNotFoundError:  # pragma: no cover - Windows has another kind of lock
    fcntl = None  # type: ignore[assignment]

Say = Callable[[str], None]

# Of file systems without locks, as parallel ones of clusters may be.
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


class InUseError(OSError):
    """Another run writes to the same place."""


@contextlib.contextmanager
def locked(path: Path, what: Path, say: Say) -> Iterator[None]:
    """Hold the lock file `path`, which is gone afterwards.

    Args:
        path: the file; its folder is made if need be.
        what: what is locked, for the message.
        say: told when the lock of a process that died is taken over, and when the file
            system knows no locks.

    Raises:
        InUseError: another process, or another thread, holds it.
    """
    file = _acquire(path, what, say)

    def release() -> None:
        path.unlink(missing_ok=True)

    with file, if_interrupted(release):
        try:
            yield
        finally:
            release()


def _acquire(path: Path, what: Path, say: Say) -> TextIO:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("a+", encoding="utf-8")
        except FileNotFoundError:  # another run just deleted the empty folder
            continue
        try:
            _lock(file, what, say)
            if _is_at(path, file):
                break
        except BaseException:
            file.close()
            raise
        file.close()
    file.seek(0)
    before = file.read().strip()
    if before:
        say(f"{what}: took over the lock of process {before}, which has ended.")
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def _lock(file: TextIO, what: Path, say: Say) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another one"
        raise InUseError(
            f"{what} is being written by another run, process {holder}; wait until it "
            "has ended, or choose another place."
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        say(f"{what}: the file system knows no locks; do not start a second run on it.")


def _is_at(path: Path, file: TextIO) -> bool:
    """Return whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
