"""Output that is there whole or not at all, and that costs nobody a file.

One routine publishes: what is finished is renamed to its place. What was there is
renamed aside before, checked again where nobody adds to it any more, and deleted last.
Killed in between, the next run on the same place puts the old output back.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from diffctl.host.interruption import if_interrupted, whole
from diffctl.host.locks import Say
from diffctl.host.paths import (
    check_folder,
    delete,
    first_free,
    flush,
    followed,
    locked_beside,
    naming,
    parents_of,
    warn,
)


@dataclass(frozen=True)
class Kind:
    """What may be replaced: a folder that holds one of the markers."""

    name: str
    markers: tuple[str, ...]


RESULT = Kind("result", ("manifest.json", "results.json", "model.json"))
MODEL = Kind("model", ("model.json",))

# Everything that this package and its converter write to the top of a folder.
WRITTEN = frozenset(
    (
        *("manifest.json", "measurement.png", "reconstruction.png", "report.html"),
        *("results.json", "figure.png"),
        *("model.json", "weights.safetensors", "weights.orbax", "training.json"),
        *("parity.json", ".parity.json.lock", ".parity.json.partial"),
    )
)


class DisplacedError(FileExistsError):
    """The result is finished, but had to be kept in another place."""


@dataclass(frozen=True)
class Place:
    """Where an output will be, held by this process alone: see `claimed`.

    Attributes:
        out: the folder, links followed.
        kind: what may be replaced.
        overwrite: whether it may.
        say: told what the user should know.
    """

    out: Path
    kind: Kind
    overwrite: bool
    say: Say

    @property
    def _work(self) -> Path:
        return self.out.with_name(f".{self.out.name}.diffctl")

    def scratch(self) -> Path:
        """Return a new empty folder on the same file system."""
        folder = self._work / "new"
        delete(folder)
        folder.mkdir(parents=True)
        return folder

    def publish(self, folder: Path) -> None:
        """Make a finished folder the output.

        Raises:
            DisplacedError: files of others have come to stand in its place; they are
                left alone, and the message says where the result is.
        """
        flush(folder)
        with whole():
            if not self._moved_in(folder):
                self._set_aside(folder)
                if not self._moved_in(folder):  # somebody was quicker
                    os.rename(self._old, self._beside("replaced"))
                    self._displace(folder)
        self.settle()

    def remove(self, folder: Path) -> None:
        """Delete a folder beside the output; in one step for who looks at its name."""
        if os.path.lexists(folder):
            trash = self._work / "trash"
            delete(trash)
            self._work.mkdir(parents=True, exist_ok=True)
            os.rename(folder, trash)
            delete(trash)

    def check_free(self) -> None:
        """Raise unless the output may be written.

        Raises:
            FileExistsError: there is something, and it may not be replaced.
            ValueError: a folder could not be put there.
        """
        _check_replaceable(self.out)
        if _is_free(self.out):
            return
        if not self.overwrite:
            raise FileExistsError(
                f"{self.out} exists; choose another folder, or pass --overwrite to "
                "replace it (overwrite=True in Python)."
            )
        if not _is_of(self.kind, self.out):
            raise FileExistsError(
                f"{self.out} is not a {self.kind.name}, it was not written by diffctl: "
                f"it holds no {' or '.join(self.kind.markers)}. Choose another folder."
            )

    def settle(self) -> None:
        """End what was begun here: put back or delete what was moved aside."""
        if os.path.lexists(self._old):
            if not os.path.lexists(self.out):
                os.rename(self._old, self.out)
                self.say(f"{self.out}: put back what an interrupted run had set aside.")
            else:
                self._keep_what_is_not_ours()
        delete(self._work)
        if os.path.lexists(self._work):
            self.say(f"{self._work} could not be deleted; it is of no more use.")

    @property
    def _old(self) -> Path:
        return self._work / "old"

    def _moved_in(self, folder: Path) -> bool:
        """Try to rename to a free place, which the system checks in the same step."""
        try:
            os.rename(folder, self.out)
        except OSError:
            if os.path.lexists(self.out):
                return False
            raise
        return True

    def _set_aside(self, folder: Path) -> None:
        if not self.overwrite or not _is_of(self.kind, self.out):
            self._displace(folder)
        self._work.mkdir(parents=True, exist_ok=True)
        os.rename(self.out, self._old)

    def _displace(self, folder: Path) -> NoReturn:
        kept = self._beside("finished")
        os.rename(folder, kept)
        raise DisplacedError(
            f"{self.out} came into being or was changed while this ran, and is left as "
            f"it is; the finished result is in {kept}. Move one of the two."
        )

    def _beside(self, ending: str) -> Path:
        return first_free(self.out.with_name(f"{self.out.name}.{ending}"))

    def _keep_what_is_not_ours(self) -> None:
        foreign = sorted({path.name for path in self._old.iterdir()} - WRITTEN)
        if foreign:
            kept = self._beside("replaced")
            os.rename(self._old, kept)
            self.say(
                f"{kept} keeps the folder that was replaced, since diffctl did not "
                f"write {', '.join(foreign[:3])}{' ...' * (len(foreign) > 3)}."
            )


def check_free(out: Path, *, overwrite: bool, kind: Kind = RESULT) -> None:
    """Raise what `claimed` would raise of the output, without holding its place."""
    Place(followed(out), kind, overwrite, warn).check_free()


@contextlib.contextmanager
def claimed(
    out: Path, *, overwrite: bool, kind: Kind = RESULT, say: Say = warn
) -> Iterator[Place]:
    """Hold the place of an output folder, which may be written.

    Everything that can be known of the place is checked here, before any work.

    Args:
        out: the folder; a link is followed.
        overwrite: whether a folder of the kind may be replaced.
        kind: what may be replaced.
        say: told what the user should know.

    Raises:
        FileExistsError: the folder may not be written.
        InUseError: another run writes to it.
        OSError: nothing can be written there.
    """
    place = Place(followed(out), kind, overwrite, say)
    place.check_free()
    with parents_of(place.out), locked_beside(place.out, say):
        place.settle()
        place.check_free()
        with if_interrupted(place.settle):
            try:
                yield place
            finally:
                place.settle()


@contextlib.contextmanager
def new_folder(
    out: Path, *, overwrite: bool = False, kind: Kind = RESULT, say: Say = warn
) -> Iterator[Path]:
    """Yield an empty folder that becomes `out` when the block ends without an error.

    Raises: as `claimed`, and `DisplacedError` at the end.
    """
    with claimed(out, overwrite=overwrite, kind=kind, say=say) as place:
        folder = place.scratch()
        with naming(out):
            yield folder
        place.publish(folder)


def _check_replaceable(out: Path) -> None:
    here = Path.cwd()
    if out == here or out in here.parents:
        raise ValueError(
            f"{out} is the folder you are in, or holds it, so that it cannot be "
            "replaced; choose a new folder in it."
        )
    if os.path.ismount(out):
        raise ValueError(
            f"{out} is where a file system is mounted, which cannot be replaced; "
            "choose a new folder in it."
        )
    check_folder(out.parent)


def _is_free(out: Path) -> bool:
    return not os.path.lexists(out) or (out.is_dir() and not any(out.iterdir()))


def _is_of(kind: Kind, out: Path) -> bool:
    return out.is_dir() and any((out / name).is_file() for name in kind.markers)
