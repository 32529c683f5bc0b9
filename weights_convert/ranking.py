"""Which of the weight files of one folder comes first, by their names.

A name that says averaged may belong to anything: statistics, another network, the
state of a training. Such a file comes first only if it is called as a usual file is, or
if it holds that file's network; otherwise it comes last.
"""

import re
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from weights_convert.readers import CheckpointError, open_checkpoint
from weights_convert.readers.average_names import (
    says_averaged,
    words,
    words_on_averages,
)

_BASES = ("diffusion_pytorch_model", "model", "pytorch_model")
_FORMATS = ("safetensors", "bin", "pt", "pth", "ckpt", "pkl", "onnx")
# An index may have the variant in either place; diffusers writes the second form.
_FILE = re.compile(
    rf"(?P<base>[^.]+)(\.(?P<variant>.+?))?\.(?P<format>{'|'.join(_FORMATS)})"
    r"(?P<index>\.index(\.(?P<tag>[^.]+))?\.json)?"
)
_PIECE = re.compile(r".*-\d+-of-\d+\.[^.]+")
_VARIANTS = (None, "fp32", "float32", "fp16", "float16", "bf16", "bfloat16")


class Rank(IntEnum):
    """What a file is among others; the first comes first."""

    NAMED_AVERAGES = 1
    SAME_NETWORK = 2  # averages by the contents of the file
    PLAIN = 3
    VARIANT = 4  # of a meaning that is not known
    ASIDE = 5


class Place(NamedTuple):
    """The place of a file among others; ONNX comes after what PyTorch writes."""

    is_onnx: bool
    rank: Rank
    digits: int
    base: int
    form: int
    name: str


def is_weights(name: str) -> bool:
    """Return whether a file of that name may hold weights."""
    return bool(_FILE.fullmatch(name)) and not is_piece(name)


def is_piece(name: str) -> bool:
    """Return whether a file is one of several that hold a network."""
    return _PIECE.fullmatch(name) is not None


def is_onnx(path: Path) -> bool:
    """Return whether a file is called as ONNX files are."""
    return path.suffix == ".onnx"


def is_usual(path: Path) -> bool:
    """Return whether a file is called as libraries call weights, in any variant.

    Variants that say averaged are usual if they say nothing else.
    """
    base = _match(path)["base"]
    is_foreign = says_averaged(_label(path)) and _stem(path) != tuple(words(base))
    return base in _BASES and not is_foreign


def places(files: Iterable[Path]) -> dict[Path, Place]:
    """Return the weight files of a folder that have a place, with it, in order.

    Args:
        files: one of them at least has a usual name. Those of other names have a place
            only if their names speak of averages.
    """
    files = list(files)
    usual = [path for path in files if is_usual(path)]
    spoken = [path for path in files if path in usual or words_on_averages(path.name)]
    found = {path: _place(path, usual) for path in spoken}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def averages_of(path: Path, others: Iterable[Path]) -> Rank | None:
    """Return how a file says that it holds averages of one of others, if it does."""
    if not says_averaged(_label(path)):
        return None
    others = [other for other in others if not says_averaged(_label(other))]
    if _stem(path) in map(_stem, others):
        return Rank.NAMED_AVERAGES
    is_same = any(_holds(path, other) for other in others)
    return Rank.SAME_NETWORK if is_same else None


def rivals(found: dict[Path, Place]) -> list[Path]:
    """Return the first file, and those that no rule tells apart from it."""
    first, place = next(iter(found.items()))
    if place.rank is Rank.PLAIN:
        return [first]
    alike = (place.is_onnx, place.rank, place.base)
    names = {
        _meaning(path): path
        for path, other in reversed(found.items())
        if (other.is_onnx, other.rank, other.base) == alike
    }
    return sorted(names.values())


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors of a file, none if it is no checkpoint."""
    try:
        tensors = open_checkpoint(path).tensors
    except (CheckpointError, OSError):  # told once the file itself is given
        return {}
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _match(path: Path) -> re.Match[str]:
    found = _FILE.fullmatch(path.name)
    if found is None:
        raise ValueError(f"{path} is no name of a weight file; expected is_weights.")
    return found


def _label(path: Path) -> str:
    found = _match(path)
    return f"{found['base']}.{found['variant'] or found['tag'] or ''}"


def _meaning(path: Path) -> tuple[str, ...]:
    """Return the words of a file's name, without the type of its numbers."""
    return tuple(word for word in words(_label(path)) if word not in _VARIANTS)


def _stem(path: Path) -> tuple[str, ...]:
    """Return the words of a file's name that say nothing of averages, decay or step."""
    passed = words_on_averages(_label(path))
    return tuple(w for w in _meaning(path) if w not in passed and not w.isdigit())


def _place(path: Path, usual: list[Path]) -> Place:
    found = _match(path)
    variant = found["variant"] or found["tag"]
    parts = [part for part in (variant or "").split(".") if part in _VARIANTS]
    bases = [tuple(words(base)) for base in _BASES]
    stem = _stem(path)
    whose = bases.index(stem) if stem in bases else len(bases)
    if found["base"] in _BASES:
        whose = _BASES.index(found["base"])
    return Place(
        is_onnx(path),
        _rank(path, usual, variant),
        _VARIANTS.index(parts[-1]) if parts else 0,
        whose,
        2 * _FORMATS.index(found["format"]) + bool(found["index"]),
        path.name,
    )


def _rank(path: Path, usual: list[Path], variant: str | None) -> Rank:
    if path not in usual:
        return averages_of(path, usual) or Rank.ASIDE
    if says_averaged(_label(path)):
        return Rank.NAMED_AVERAGES
    return Rank.PLAIN if variant in _VARIANTS else Rank.VARIANT


def _holds(path: Path, other: Path) -> bool:
    """Return whether a file has the tensors of another, below any prefix."""
    outer, inner = shapes(path), shapes(other)
    if not outer or not inner:
        return False
    shared = _common_prefix(inner)
    inner = {name[len(shared) :]: shape for name, shape in inner.items()}
    some = next(iter(inner))
    prefixes = [n.removesuffix(some) for n in outer if f".{n}".endswith(f".{some}")]
    return any(
        all(outer.get(prefix + name) == shape for name, shape in inner.items())
        for prefix in prefixes
    )


def _common_prefix(names: Iterable[str]) -> str:
    """Return the modules, with their dots, that all tensors lie in."""
    paths = [name.split(".")[:-1] for name in names]
    depth = next(
        (i for i, parts in enumerate(zip(*paths, strict=False)) if len(set(parts)) > 1),
        min(map(len, paths)),
    )
    return "".join(f"{part}." for part in paths[0][:depth])
