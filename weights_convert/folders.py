"""Which weight file of a folder is meant: variants, averages, parts, checkpoints.

Of a pipeline the parts are tried in order, averages first; of the files of a part,
averages come first, then plain weights, then those of fewer digits. Whatever is taken
is told, with what else is there; several files that no rule tells apart are refused.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from weights_convert.families.base import ConfigError
from weights_convert.readers.average_names import says_averaged
from weights_convert.readers.foreign import folder_reason

_PARTS = ("", "unet_ema", "unet", "vae")  # of a pipeline folder
_AVERAGES_OF = {"unet": "unet_ema"}
_BASES = ("diffusion_pytorch_model", "model", "pytorch_model")
_FORMATS = ("safetensors", "bin", "pt", "pth", "ckpt", "pkl")
# An index may have the variant in either place; diffusers writes the second form.
_FILE = re.compile(
    rf"(?P<base>[^.]+)(\.(?P<variant>.+?))?\.(?P<format>{'|'.join(_FORMATS)})"
    r"(?P<index>\.index(\.(?P<tag>[^.]+))?\.json)?"
)
_PIECE = re.compile(r".*-\d+-of-\d+\.[^.]+")
_NO_WEIGHTS = re.compile(
    r"(optimi[sz]er|opt|scheduler|random_states|rng_state|scaler|training_args|"
    r"custom_checkpoint|pytorch_lora_weights|adapter_model)([_.\-\d].*)?"
)
_VARIANTS = (None, "fp32", "float32", "fp16", "float16", "bf16", "bfloat16")
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
    found = known or _of_other_names(source)
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
    """Return the weight files of a folder by the usual names, the one meant first.

    Averages beside them may have any name.
    """
    files = {path: _FILE.fullmatch(path.name) for path in _weights(folder)}
    found = {path: match for path, match in files.items() if match is not None}
    if not any(match["base"] in _BASES for match in found.values()):
        return []
    keys = {path: key for path, match in found.items() if (key := _key(match))}
    return sorted(keys, key=lambda path: (keys[path], path.name))


def _weights(folder: Path) -> list[Path]:
    """Return the files that may hold weights, whatever they are called."""
    return [
        path
        for path in _entries(folder)
        if path.is_file()
        and _FILE.fullmatch(path.name)
        and not _PIECE.fullmatch(path.name)
        and not _NO_WEIGHTS.fullmatch(path.name)
    ]


def _key(found: re.Match[str]) -> tuple[int, int, int] | None:
    """Return the place of a file among others, or None for an unusual name."""
    base, variant = found["base"], found["variant"] or found["tag"]
    averaged = says_averaged(f"{base}.{variant or ''}")
    if base not in _BASES and not averaged:
        return None
    is_known = variant in _VARIANTS
    place = _VARIANTS.index(variant) if is_known else len(_VARIANTS)
    order = 2 * _FORMATS.index(found["format"]) + bool(found["index"])
    whose = _BASES.index(base) if base in _BASES else len(_BASES)
    return (-1 if averaged else place, whose, order)


def _of_other_names(source: Path) -> list[Path]:
    """Return the weight files of a folder in which none has a usual name.

    Raises:
        ConfigError: there are several.
    """
    is_ours = (source / "model.json").is_file()
    files = [] if is_ours else _weights(source)
    averages = [path for path in files if says_averaged(path.name)]
    if len(averages) == 1:
        return sorted(files, key=lambda path: path not in averages)
    if len(files) > 1:
        raise ConfigError(
            f"{source} has several weight files, and nothing says which is meant: "
            f"{_names(source, files)}. Give the file itself."
        )
    return files


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
    pieces = [p.name for p in _entries(source) if _PIECE.fullmatch(p.name)]
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
        f"{source} is no file, and no folder with weights such as {_BASES[0]}."
        "safetensors at its top, in unet/, in vae/ or in checkpoint-*/. Give the "
        "weight file itself."
    )
