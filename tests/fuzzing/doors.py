"""Every door through which files come in: good ones, what reads them, how it refuses.

A door is given a folder and returns an outcome: "accepted", "refused: " with what its
user is told, or "failed: " with what should not have happened.
"""

import contextlib
import io
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from diffctl.checkpoint import CheckpointError
from tests.fuzzing import seeds
from tests.fuzzing.rules import hostile
from tests.weights_convert.fuzzing.corpus import TOYS, Ground, draw
from tests.weights_convert.fuzzing.seeds import CONFIG, Files
from tests.weights_convert.fuzzing.worker import read_all
from weights_convert import readers
from weights_convert.cli import main

OUT = "out"
ACCEPTED = "accepted"
# What Python says to programmers about their code, not to users about their file.
_INTERNAL = re.compile(
    "NoneType|has no attribute|not subscriptable|unhashable|positional argument|"
    r"unexpected keyword|<class|<module|object is not|0x[0-9a-f]{6}|"
    "not supported between|can't multiply|unsupported operand|must be str|"
    "object cannot be|not foreseen|Traceback|integer string conversion|"
    "out of range|truth value|incompatible shapes|ShapeDtypeStruct|Tracer"
)


@dataclass(frozen=True)
class Door:
    """One way in.

    Attributes:
        name: of the format, as the table of counts has it.
        share: how many of 5,000 files.
        draw: makes the files of a sample.
        handle: reads them; see above.
        good: files that must be accepted.
    """

    name: str
    share: int
    draw: Callable[[Random], Files]
    handle: Callable[[Path, Files], str]
    good: Callable[[], Iterable[Files]]


def outcome(
    read: Callable[[Path], Any], errors: tuple[type, ...], folder: Path, files: Files
) -> str:
    """Return what came of reading some files that may be refused by some errors."""
    try:
        read(folder)
    except Exception as error:  # whatever it is, it goes into the report
        said = " ".join([str(error), *getattr(error, "__notes__", ())])
        if type(error) in errors:
            return told(said, folder, files)
        return f"failed: {type(error).__name__}: {said[:300]}"
    return ACCEPTED


def told(said: str, folder: Path, files: Files) -> str:
    """Return that files were refused, if that is said as it should be."""
    names = {part for name in files for part in Path(name).parts}
    if not any(name in said for name in (str(folder), *names)):
        return f"failed: no file is named: {said[:300]}"
    if inside := _INTERNAL.search(said):
        return f"failed: {inside[0]!r} in: {said[:300]}"
    if not " ".join(said.split()).isprintable():
        return f"failed: unprintable: {said[:300]!r}"
    return f"refused: {said}"


def command(words: list[str], folder: Path, files: Files) -> str:
    """Return what came of a command line."""
    said = io.StringIO()
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(said),
    ):
        code = main(words)
    message = said.getvalue()
    if code == 2:
        return told(message.partition("error: ")[2].strip(), folder, files)
    return ACCEPTED if code in (0, 1) else f"failed: code {code}: {message[:300]}"


def _reading(read: Callable[[Path], Any]) -> Callable[[Path, Files], str]:
    known = (ValueError, FileNotFoundError, CheckpointError)
    return lambda folder, files: outcome(read, known, folder, files)


def _corpus(ground: Callable[[], Ground]) -> Callable[[Random], Files]:
    return lambda source: draw(source, ground())[1]


def _grown(good: Callable[[], Iterable[Files]]) -> Callable[[Random], Files]:
    """Return what damages one of several good folders."""
    kept = cache(lambda: list(good()))
    return lambda source: hostile(source, dict(source.choice(kept())))


def _door(
    name: str,
    share: int,
    good: Callable[[], Iterable[Files]],
    handle: Callable[[Path, Files], str],
) -> Door:
    return Door(name, share, _grown(good), handle, good)


def _open_checkpoint(folder: Path, files: Files) -> str:
    first = next(iter(files))
    known = (readers.CheckpointError,)
    return outcome(lambda folder: read_all(folder / first), known, folder, files)


def _convert(folder: Path, files: Files) -> str:
    first = next(iter(files))
    source = folder / first.partition("/")[0]
    words = [str(source), "--out", str(folder / OUT)]
    if (folder / CONFIG).exists():
        words += ["--config", str(folder / CONFIG)]
    return command(words, folder, files)


def _inspect(folder: Path, files: Files) -> str:
    source = folder / next(iter(files)).partition("/")[0]
    return command(["inspect", str(source)], folder, files)


def _export(folder: Path, files: Files) -> str:
    out = str(folder / "exported.safetensors")
    return command(["export", str(folder / "model"), "--out", out], folder, files)


def _verify(folder: Path, files: Files) -> str:
    words = ["verify", str(folder / "model"), "--reference", str(folder / "io.npz")]
    return command(words, folder, files)


def _networks() -> Ground:
    from tests.weights_convert.fuzzing.networks import NETWORKS

    return NETWORKS


def _good(ground: Callable[[], Ground]) -> Callable[[], list[Files]]:
    return lambda: list(ground().seeds.values())


DOORS = (
    Door(
        "checkpoints",
        1000,
        _corpus(lambda: TOYS),
        _open_checkpoint,
        _good(lambda: TOYS),
    ),
    Door("conversions", 600, _corpus(_networks), _convert, _good(_networks)),
    _door("ONNX files", 300, lambda: [TOYS.seeds["onnx"]], _open_checkpoint),
    _door("pipeline folders", 250, seeds.pipelines, _convert),
    _door("inspections", 250, seeds.pipelines, _inspect),
    _door("export folders", 150, seeds.converted, _export),
    _door("verify folders and references", 150, seeds.references, _verify),
    _door("image priors", 500, seeds.image_priors, _reading(seeds.restore_image_prior)),
    _door("latent priors", 250, seeds.latent_priors, _reading(seeds.restore_latent)),
    _door(
        "consistency priors",
        150,
        seeds.consistency,
        _reading(seeds.restore_consistency),
    ),
    _door(
        "generative priors", 350, seeds.generative, _reading(seeds.restore_generative)
    ),
    _door("data sets", 400, seeds.data_sets, _reading(seeds.read_data_set)),
    _door("pictures", 400, seeds.pictures, _reading(seeds.read_the_picture)),
    _door(
        "solve states",
        125,
        seeds.solve_states,
        _reading(seeds.load_state),
    ),
    _door(
        "unfinished runs",
        125,
        seeds.unfinished,
        _reading(seeds.take_up),
    ),
)
