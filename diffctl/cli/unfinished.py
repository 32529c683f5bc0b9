"""A run that takes long, kept beside its output until it is done.

`<out>.unfinished` holds `settings.json`, what the run was asked for, and the newest
checkpoint of its state. A run is resumed only with the settings that it began with.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffctl import checkpoint


@dataclass(frozen=True)
class Unfinished:
    """The folder of a run in progress."""

    folder: Path

    @classmethod
    def start(
        cls, out: Path, settings: dict[str, Any], *, resume: bool, overwrite: bool
    ) -> "Unfinished":
        """Begin a run, or take up the one that was interrupted.

        Args:
            out: where the result will be.
            settings: everything that decides the result, as JSON.
            resume: go on from the checkpoint, if there is one.
            overwrite: drop an interrupted run.

        Raises:
            FileExistsError: there is an interrupted run, and neither was asked for.
            ValueError: the interrupted run has other settings.
        """
        self = cls(out.with_name(f"{out.name}.unfinished"))
        path = self.folder / "settings.json"
        if resume and path.is_file():
            _check_same(self.folder, json.loads(path.read_text()), settings)
            return self
        if path.is_file() and not overwrite:
            raise FileExistsError(
                f"{self.folder} holds an interrupted run; go on with --resume, or pass "
                "--overwrite to start anew."
            )
        if path.is_file():
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings, indent=2) + "\n")
        return self

    def restore(self, like: Any) -> Any:
        """Return the newest state, or None if there is no checkpoint yet."""
        at = self.folder / "checkpoint"
        return checkpoint.restore(at, like) if checkpoint.exists(at) else None

    def save(self, state: Any) -> None:
        """Replace the checkpoint, atomically."""
        checkpoint.save(self.folder / "checkpoint", state)

    def remove(self) -> None:
        """Delete the folder: the run is done."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _check_same(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    new = json.loads(json.dumps(new))
    differing = [
        f"{name} was {old.get(name)!r}, now {new.get(name)!r}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    if differing:
        raise ValueError(
            f"The interrupted run in {folder} had other settings: "
            f"{'; '.join(differing)}. Resume it with the same, or pass --overwrite to "
            "start anew."
        )
