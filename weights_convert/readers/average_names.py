"""What in a state dict is called an average, and averages whose names lost their dots.

CompVis/latent-diffusion keeps the averages of a module in a second one, `model_ema`,
under the names of the first without dots, for a buffer may have none in its name:

    model.diffusion_model.out.2.weight  <->  model_ema.diffusion_modelout2weight
"""

import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping

from weights_convert.readers.machine import Budget
from weights_convert.readers.tensors import LazyTensor

# Words in keys, by which training programs call averaged weights, and deny it.
_AVERAGED = {
    *("ema", "shadow", "swa", "averaged", "average", "averages", "averaging", "polyak"),
}
LEAST_TENSORS = 8  # of the smallest network that a family has
_MAX_COMPARED = 1_000_000  # a network and its averages have some thousand names
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


def averaged_groups(names: Iterable[str]) -> dict[str, list[str]]:
    """Return names by the prefix, with its dot, of which the last word says averaged.

    A group inside another is not listed.
    """
    prefixes: dict[str, str] = {}
    groups: dict[str, list[str]] = {}
    for name in names:
        parent = name.rpartition(".")[0]
        if parent not in prefixes:
            prefixes[parent] = _averaged_prefix(parent)
        if prefixes[parent]:
            groups.setdefault(prefixes[parent], []).append(name)
    return dict(sorted(groups.items()))


def without_averages(tensors: Tensors) -> dict[str, LazyTensor]:
    """Return the tensors that lie in no group of averages."""
    averages = {n for names in averaged_groups(tensors).values() for n in names}
    return {n: t for n, t in tensors.items() if n not in averages}


def dotted(tensors: Tensors) -> dict[str, dict[str, LazyTensor]]:
    """Return averages whose names lost their dots under the names that they had.

    Args:
        tensors: of the state dict.

    Returns:
        By the prefix of the averages, the tensors of the module that they are averages
        of, those that are not averaged among them; nothing of groups for which there is
        no such module, nor of those too small to be a network.

    Raises:
        CheckpointError: more modules would have to be compared than any file has.
    """
    flat = {}
    for group, members in averaged_groups(tensors).items():
        bare = {n[len(group) :]: tensors[n] for n in members}
        averages = {n: t for n, t in bare.items() if t.shape}  # without counters
        if len(averages) >= LEAST_TENSORS and not any("." in n for n in averages):
            flat[group] = averages
    modules = _modules({next(iter(averages)) for averages in flat.values()}, tensors)
    below, budget = _Below(tensors), Budget(_MAX_COMPARED)
    found = {}
    for group, averages in flat.items():
        for module in modules.get(next(iter(averages)), ()):
            budget.spend(1)
            inner = {} if module == group else below(module, group, budget)
            names = {name.replace(".", ""): name for name in inner}
            same = (
                n in names and inner[names[n]].shape == t.shape
                for n, t in averages.items()
            )
            if len(names) == len(inner) and all(same):
                again = {names[n]: t.named(names[n]) for n, t in averages.items()}
                found[group] = inner | again
                break
    return found


class _Below:
    """The tensors below prefixes, found in sorted names instead of in all of them."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        self._sorted = sorted(tensors)
        self._place = {name: place for place, name in enumerate(tensors)}

    def __call__(
        self, module: str, group: str, budget: Budget
    ) -> dict[str, LazyTensor]:
        """Return those of a module in the order of the file, without a group's."""
        start, stop = 0, len(self._sorted)
        if module:  # what begins with it lies before the character after the dot
            start = bisect_left(self._sorted, module)
            stop = bisect_left(self._sorted, f"{module[:-1]}/")
        budget.spend(stop - start)
        names = sorted(self._sorted[start:stop], key=self._place.__getitem__)
        return {
            n[len(module) :]: self._tensors[n] for n in names if not n.startswith(group)
        }


def _letters(word: str) -> str:
    return word.rstrip("0123456789")


def _averaged_prefix(parent: str) -> str:
    """Return a dotted path up to its first part that says averaged, or nothing."""
    parts = parent.split(".")
    for place, part in enumerate(parts):
        if says_averaged(part):
            return "".join(f"{outer}." for outer in parts[: place + 1])
    return ""


def _modules(flat: Collection[str], names: Iterable[str]) -> dict[str, list[str]]:
    """Return by names without dots the prefixes below which they are those of tensors.

    Args:
        flat: the names without dots.
        names: of all tensors.
    """
    longest = max(map(len, flat), default=0)
    found: dict[str, dict[str, None]] = {name: {} for name in flat}
    for name in names if flat else ():
        bare, start = "", len(name)
        while start >= 0 and len(bare) <= longest:
            stop, start = start, name.rfind(".", 0, start)
            bare = f"{name[start + 1 : stop]}{bare}"
            if bare in found:
                found[bare][name[: start + 1]] = None
    return {name: list(prefixes) for name, prefixes in found.items()}
