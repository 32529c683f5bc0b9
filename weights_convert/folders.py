"""Which weight file of a folder is meant: variants, averages, parts, checkpoints.

Of a pipeline the parts are tried in order, averages first; of the files of a part,
averages come first, then plain weights, then those of fewer digits; ONNX comes last.
Whatever is taken is told, with what else is there; several files that no rule tells
apart are refused.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from weights_convert.families.base import ConfigError
from weights_convert.ranking import (
    averages_of,
    is_onnx,
    is_piece,
    is_usual,
    is_weights,
    places,
    rivals,
    shapes,
)
from weights_convert.readers.average_names import says_averaged, words_on_averages
from weights_convert.readers.foreign import folder_reason

_PARTS = ("", "unet_ema", "unet", "vae")  # of a pipeline folder
_AVERAGES_OF = {"unet": "unet_ema"}
_ADDITIONS = r"pytorch_lora_weights|adapter_model"
_NO_WEIGHTS = re.compile(
    r"(optimi[sz]er|opt|scheduler|random_states|rng_state|scaler|training_args|"
    rf"custom_checkpoint|{_ADDITIONS})([_.\-\d].*)?"
)
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_MAX_LISTED = 8


def weight_file(source: Path) -> tuple[Path, tuple[str, ...]]:
    """Return the weight file that a path means, and what the user should know of it.

    Args:
        source: a file; or a folder of weights, of a pipeline, of a training program's
            checkpoint, or of such checkpoints.

    Raises:
        FileNotFoundError: there is none.
        ConfigError: there are several, and nothing says which is meant.
    """
    if source.is_file():
        return source, tuple(_averages_beside(source.parent))
    known = [file for folder in _folders(source) for file in _ranked(folder)]
    found = sorted(known, key=is_onnx)
    if not found or (is_onnx(found[0]) and _has_others(source)):
        found = _of_other_names(source)
    elif len(equal := rivals(places(_weights(found[0].parent)))) > 1:
        raise ConfigError(_several(source, equal))
    else:
        found += _asides(source)
    if not found:
        raise FileNotFoundError(_nothing(source))
    beside = _averages_beside(source)
    return found[0], (_note(source, found), *beside)


def is_checkpoint(folder: Path) -> bool:
    """Return whether a folder is what trainers call `checkpoint-1000`."""
    return _CHECKPOINT.fullmatch(folder.name) is not None


def _folders(source: Path) -> Iterator[Path]:
    """Yield where weights may lie: the parts, then those of checkpoints."""
    yield from (source / part for part in _PARTS)
    checkpoints = [path for path in _entries(source) if is_checkpoint(path)]
    newest_first = sorted(checkpoints, key=lambda p: int(p.name.split("-")[1]))[::-1]
    for checkpoint in newest_first:
        yield from (checkpoint / part for part in _PARTS)


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _ranked(folder: Path) -> list[Path]:
    """Return the weight files of a folder with usual names, the one meant first."""
    files = _weights(folder)
    return list(places(files)) if any(map(is_usual, files)) else []


def _asides(source: Path) -> list[Path]:
    """Return what may be averages, in those folders where no name is usual."""
    return [
        path
        for folder in _folders(source)
        if not _ranked(folder)
        for path in _weights(folder)
        if words_on_averages(path.name)
    ]


def _has_others(source: Path) -> bool:
    """Return whether a folder has weights that are neither ONNX nor averages."""
    return any(not is_onnx(p) and not says_averaged(p.name) for p in _weights(source))


def _weights(folder: Path) -> list[Path]:
    """Return the files that may hold weights, whatever they are called."""
    return [
        path
        for path in _entries(folder)
        if path.is_file()
        and is_weights(path.name)
        and not _NO_WEIGHTS.fullmatch(path.name)
    ]


def _of_other_names(source: Path) -> list[Path]:
    """Return the weight files of a folder in which none has a usual name.

    The averages of another file come first, otherwise the only one that can be read.

    Raises:
        ConfigError: there are several.
    """
    is_ours = (source / "model.json").is_file()
    files = [] if is_ours else sorted(_weights(source), key=is_onnx)
    torch = [path for path in files if is_onnx(path) == is_onnx(files[0])]
    if len(torch) < 2:
        return files
    first = [path for path in torch if averages_of(path, torch) is not None]
    first = first or [path for path in torch if shapes(path)]
    if len(first) != 1:
        raise ConfigError(_several(source, torch))
    return sorted(files, key=lambda path: path not in first)


def _several(source: Path, files: list[Path]) -> str:
    return (
        f"{source} has several weight files, and nothing says which is meant: "
        f"{_names(source, files)}. Give the file itself."
    )


def _note(source: Path, found: list[Path]) -> str:
    also = f"; also there: {_names(source, found[1:])}" if found[1:] else ""
    cure = ", to be given in place of the folder" if also else ""
    return f"taken: {found[0].relative_to(source)}{also}{cure}"


def _averages_beside(folder: Path) -> Iterator[str]:
    """Yield a line on averages in a folder beside the one that was given."""
    folder = folder.absolute()
    beside = folder.parent / _AVERAGES_OF.get(folder.name, "")
    if folder.name in _AVERAGES_OF and _ranked(beside):
        yield f"averages of these weights lie beside {folder.name}/, in {beside.name}/"


def _names(source: Path, files: list[Path]) -> str:
    names = [str(path.relative_to(source)) for path in files[:_MAX_LISTED]]
    more = len(files) - len(names)
    return ", ".join([*names, *([f"and {more} more"] if more else [])])


def _nothing(source: Path) -> str:
    """Say that a path leads to no weights, and what it leads to where that is known."""
    if reason := folder_reason(source):
        return f"{source} {reason}."
    entries = (entry for folder in _folders(source) for entry in _entries(folder))
    added = [p for p in entries if re.fullmatch(rf"({_ADDITIONS})\..*", p.name)]
    if added:
        return (
            f"{source} has {_names(source, added)} only: LoRA weights are additions to "
            "a network, and no network; fuse them into the network in the library that "
            "trained them (fuse_lora or merge_and_unload), and give what it saves."
        )
    pieces = [p.name for p in _entries(source) if is_piece(p.name)]
    if pieces:
        return (
            f"{source} has pieces of weights such as {pieces[0]}, but no *.index.json "
            "that says which tensor is where; download the index as well."
        )
    inside = [f"{path.name}/" for path in _entries(source) if _weights(path)]
    if inside:
        return (
            f"{source} has weights in {', '.join(inside[:_MAX_LISTED])} only; give the "
            "folder that is meant, or the weight file itself."
        )
    return (
        f"{source} is no file, and no folder with weights such as "
        "diffusion_pytorch_model.safetensors at its top, in unet/, in vae/ or in "
        "checkpoint-*/. Give the weight file itself."
    )
