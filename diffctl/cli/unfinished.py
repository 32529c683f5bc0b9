"""A run that takes long, kept beside its output until it is done.

`<out>.unfinished` holds `settings.json`, what the run was asked for, and the newest
checkpoint of its state with a digest of those settings. A run goes on only if it is
asked to, and only with the settings that it began with.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffctl import checkpoint
from diffctl.host import (
    DisplacedError,
    Place,
    if_interrupted,
    new_file,
    read_json,
    show,
    to_json,
)

_SETTINGS, _CHECKPOINT = "settings.json", "checkpoint"
_OURS = {_SETTINGS, f".{_SETTINGS}.partial", f".{_SETTINGS}.lock", _CHECKPOINT, "model"}


@dataclass(frozen=True)
class Unfinished:
    """The folder of a run in progress.

    Attributes:
        place: of the output.
        settings: everything that decides the result, as JSON.
        resumed: whether the run goes on from the checkpoint that is there.
    """

    place: Place
    settings: dict[str, Any]
    resumed: bool

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, place: Place, settings: dict[str, Any], *, resume: bool
    ) -> Iterator["Unfinished"]:
        """Begin a run, or take up the one that was interrupted.

        A run that ends without a checkpoint leaves nothing.

        Args:
            place: of the output; if that may be overwritten, so may an interrupted run.
            settings: everything that decides the result, as JSON.
            resume: go on from the checkpoint, if there is one.

        Raises:
            FileExistsError: there is an interrupted run, and neither was asked for.
            ValueError: the interrupted run has other settings, or they are damaged.
        """
        settings = json.loads(to_json(settings))
        self = cls(place, settings, resumed=_goes_on(place, settings, resume=resume))
        with if_interrupted(self.leave):
            try:
                if not self.resumed:
                    self._begin()
                yield self
            except KeyboardInterrupt:
                raise KeyboardInterrupt(self.leave()) from None
            except DisplacedError:
                self.remove()
                raise
            except Exception as error:
                if self.is_saved():
                    error.add_note(self.leave())
                raise
            finally:
                self.leave()

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        return _folder(self.place)

    def restore(self, like: Any) -> Any:
        """Return the newest state of the run that goes on, or None for a new run.

        Raises:
            ValueError: the checkpoint is not of these settings.
        """
        if not self.resumed:
            return None
        stored = {"settings": self._digest(), "state": like}
        found = checkpoint.restore(self.folder / _CHECKPOINT, stored)
        if not np.array_equal(found["settings"], self._digest()):
            raise ValueError(
                f"The checkpoint in {self.folder} is of a run with other settings than "
                f"those in its {_SETTINGS}; pass --overwrite to start anew."
            )
        return found["state"]

    def save(self, state: Any) -> None:
        """Replace the checkpoint, atomically."""
        stored = {"settings": self._digest(), "state": state}
        checkpoint.save(self.folder / _CHECKPOINT, stored)

    def is_saved(self) -> bool:
        """Return whether there is a checkpoint."""
        return checkpoint.exists(self.folder / _CHECKPOINT)

    def leave(self) -> str:
        """Delete the folder unless it holds a checkpoint; say which."""
        if self.is_saved():
            return (
                f"The checkpoint in {self.folder} is kept; go on with the same command "
                "and --resume."
            )
        self.remove()
        return "There was no checkpoint yet."

    def remove(self) -> None:
        """Delete the folder: the run is done."""
        _remove(self.place)

    def _begin(self) -> None:
        _remove(self.place)
        with new_file(self.folder / _SETTINGS) as path:
            path.write_text(to_json(self.settings))

    def _digest(self) -> np.ndarray:
        text = json.dumps(self.settings, sort_keys=True)
        return np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)


def _folder(place: Place) -> Path:
    return place.out.with_name(f"{place.out.name}.unfinished")


def _remove(place: Place) -> None:
    """Delete what a run keeps, in one step, and nothing that a user put beside it."""
    folder = _folder(place)
    if not folder.is_dir():
        return
    if {path.name for path in folder.iterdir()} <= _OURS:
        place.remove(folder)
    else:
        place.remove(folder / _CHECKPOINT)
        place.remove(folder / _SETTINGS)


def _goes_on(place: Place, settings: dict[str, Any], *, resume: bool) -> bool:
    """Return whether to go on from what is there; it is lost if not."""
    folder = _folder(place)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(
            f"{folder} is a file; it is in the way of what is kept of a run. Move it."
        )
    if not checkpoint.exists(folder / _CHECKPOINT):
        return False
    if not (folder / _SETTINGS).is_file():
        place.say(
            f"{folder} does not say what its checkpoint is of; the run starts anew."
        )
        return False
    if place.overwrite and not resume:
        return False
    if not resume:
        raise FileExistsError(
            f"{folder} holds an interrupted run; go on with --resume, or pass "
            "--overwrite to start anew."
        )
    _check_same(folder, settings)
    return True


def _check_same(folder: Path, new: dict[str, Any]) -> None:
    cure = "pass --overwrite without --resume to start anew."
    try:
        old = read_json(folder / _SETTINGS)
    except ValueError as error:
        raise ValueError(f"{error} Its run cannot go on; {cure}") from error
    if not isinstance(old, dict):
        raise ValueError(f"{folder / _SETTINGS} holds no JSON object; {cure}")
    differing = [
        f"{name} was {show(old.get(name))}, now {show(new.get(name))}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    if differing:
        raise ValueError(
            f"The interrupted run in {folder} had other settings: "
            f"{'; '.join(differing)}. Resume it with the same, or {cure}"
        )
