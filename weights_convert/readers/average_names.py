"""What in a state dict is called an average, and averages whose names lost their dots.

CompVis/latent-diffusion keeps the averages of a module in a second one, `model_ema`,
under the names of the first without dots, for a buffer may have none in its name:

    model.diffusion_model.out.2.weight  <->  model_ema.diffusion_modelout2weight
"""

import re
from collections.abc import Iterable, Iterator, Mapping

from weights_convert.readers.tensors import LazyTensor

# Words in keys, by which training programs call averaged weights, and deny it.
_AVERAGED = {
    *("ema", "shadow", "swa", "averaged", "average", "averages", "averaging", "polyak"),
}
_DENIED = {"no", "non", "not", "without"}
_WORDS = re.compile(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*|\d+")

Tensors = Mapping[str, LazyTensor]


def says_averaged(key: str) -> bool:
    """Return whether a key calls what it holds averaged, in whatever case."""
    found = {_letters(word) for word in words(key)}
    return bool(found & _AVERAGED) and not found & _DENIED


def words(key: str) -> list[str]:
    """Return the words and numbers of a key in lower case."""
    return [word.lower() for word in _WORDS.findall(key)]


def words_on_averages(key: str) -> list[str]:
    """Return the words of a key that call something averaged, or deny it."""
    return [word for word in words(key) if _letters(word) in _AVERAGED | _DENIED]


def averaged_groups(names: Iterable[str]) -> list[str]:
    """Return the prefixes, with their dots, of which the last word says averaged.

    A group inside another is not listed.
    """
    parents = {name.rpartition(".")[0] for name in names}
    found = (_averaged_prefix(parent) for parent in parents)
    return sorted({prefix for prefix in found if prefix})


def without_averages(tensors: Tensors) -> dict[str, LazyTensor]:
    """Return the tensors that lie in no group of averages."""
    groups = tuple(averaged_groups(tensors))
    return {n: t for n, t in tensors.items() if not groups or not n.startswith(groups)}


def dotted(tensors: Tensors, group: str) -> dict[str, LazyTensor]:
    """Return averages whose names lost their dots under the names that they had.

    Args:
        tensors: of the state dict.
        group: prefix of the averages.

    Returns:
        The tensors of the module that they are averages of, those that are not
        averaged among them; nothing if there is no such module.
    """
    averages = {n[len(group) :]: t for n, t in tensors.items() if n.startswith(group)}
    others = {n: t for n, t in tensors.items() if not n.startswith(group)}
    averages = {name: t for name, t in averages.items() if t.shape}  # without counters
    if not averages or any("." in name for name in averages):
        return {}
    for module in _modules(next(iter(averages)), others):
        inner = {n[len(module) :]: t for n, t in others.items() if n.startswith(module)}
        names = {name.replace(".", ""): name for name in inner}
        same = (
            n in names and inner[names[n]].shape == averages[n].shape for n in averages
        )
        if len(names) == len(inner) and all(same):
            return inner | {names[n]: t.named(names[n]) for n, t in averages.items()}
    return {}


def _letters(word: str) -> str:
    return word.rstrip("0123456789")


def _averaged_prefix(parent: str) -> str:
    """Return a dotted path up to its first part that says averaged, or nothing."""
    parts = parent.split(".")
    for place, part in enumerate(parts):
        if says_averaged(part):
            return "".join(f"{outer}." for outer in parts[: place + 1])
    return ""


def _modules(flat: str, names: Iterable[str]) -> Iterator[str]:
    """Yield the prefixes below which a name without dots is that of a tensor."""
    for name in names:
        start = len(name)
        while start >= 0:
            start = name.rfind(".", 0, start)
            if name[start + 1 :].replace(".", "") == flat:
                yield name[: start + 1]
