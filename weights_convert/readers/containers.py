"""Finding the state dicts in whatever a training program saved.

A state dict is a dictionary from names to tensors, or a module. It may be the file
itself or lie in dictionaries and lists. Which is selected unless the user says so:
those with less than half as many numbers as the largest are left aside (a decay rate,
a schedule); of the rest averaged weights come first, then the usual names, then any;
then the one with most numbers; then the last, because ermongroup/ddim appends the
averaged weights to a list. Averages without names are named after the state dict beside
them (`averages.py`).
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from weights_convert.readers.arrays import tensor_of
from weights_convert.readers.average_names import says_averaged
from weights_convert.readers.averages import averages, called_averages, named_by
from weights_convert.readers.checkpoint import Checkpoint, Container
from weights_convert.readers.machine import Budget
from weights_convert.readers.modules import as_dict, container_of, is_module
from weights_convert.readers.tensors import CheckpointError, LazyTensor, checked_name

_COUNTER = "n_averaged"  # of torch's AveragedModel, beside the module it wraps
# WeightAveraging of Lightning-AI/pytorch-lightning puts averages in the usual place.
_SWAPPED = {"state_dict", "current_model_state"}
USUAL = {
    *("state_dict", "model_state_dict", "model", "net", "network", "module", "params"),
    *("unet", "score_model", "denoiser", "generator"),
}
_WRAPPERS = ("module.", "_orig_mod.")
# Put inside names, too, by torch.compile, FSDP, activation checkpoints and Fabric.
_TRANSPARENT = {
    *("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"),
    *("_forward_module", "_flat_param_wrapped_module"),
}
_OPTIMISER = {"state", "param_groups"}
_MAX_DEPTH = 4
_MAX_VISITS = 200_000

Place = tuple[str, ...]  # keys from the outside in


def checkpoint_of(
    path: Path,
    kind: str,
    root: Any,
    notes: dict[str, Any] | None = None,
    container: str | None = None,
) -> Checkpoint:
    """Return a checkpoint with its state dicts found and one selected.

    Args:
        path: of the file.
        kind: its format, in words.
        root: the object in it.
        notes: what else is known about it.
        container: what to select, see `Checkpoint.select`; None to choose.

    Raises:
        CheckpointError: if there is none, or its tensors cannot be read.
    """
    choices, values = dict(_find(root)), as_dict(root) or {}
    if _SWAPPED.issubset(values.keys() & choices.keys()):
        choices["state_dict"] = replace(choices["state_dict"], averaged=True)
    if not choices:
        raise CheckpointError(
            f"{path} ({kind}) holds no dictionary of tensors; save a state dict."
        )
    # What is only called averages does not keep the model from being taken.
    fitting = {n: c for n, c in choices.items() if c.averaged or not c.problem}
    fitting = fitting or choices
    largest = max(container.num_parameters for container in fitting.values())
    candidates = [n for n, c in fitting.items() if 2 * c.num_parameters >= largest]
    # Python's max keeps the first of equals.
    best = max(
        reversed(candidates),
        key=lambda n: (_rank(n, choices[n]), choices[n].num_parameters),
    )
    beside = {str(key): v for key, v in values.items() if not _is_inside(v)}
    named = (container or "", (container or "").rpartition(":")[0])
    first = next((name for name in named if name in choices), best)
    opened = Checkpoint(path, kind, choices, first, beside | (notes or {}))
    return opened if container is None else opened.select(container)


def _rank(name: str, container: Container) -> int:
    parts = name.split("/")
    if container.averaged or any(map(says_averaged, parts)):
        return 2
    return 1 if USUAL.intersection(parts) else 0


def _is_inside(value: Any) -> bool:
    """Return whether a value is, or may hold, tensors."""
    is_part = isinstance(value, LazyTensor | list | tuple) or is_module(value)
    return is_part or bool(as_dict(value))


def _find(root: Any) -> Iterator[tuple[str, Container]]:
    """Yield the state dicts with their places, from the outside in, each once."""
    budget = Budget(_MAX_VISITS)
    found: dict[Place, Container] = {}
    nameless = []
    for place, value in _walk(root):
        container = _container(value, budget)
        shadow, called = averages(value), called_averages(place, value)
        if shadow or called:
            nameless.append((place, shadow or called, bool(shadow)))
        elif container.tensors:
            found[place] = container
            yield "/".join(place) or ".", container
    for place, shadow, is_known in nameless:
        budget.spend(len(found))
        # Callbacks lie deeper than the model whose averages they keep.
        nearest = sorted(found, key=lambda other: not other or other[:-1] != place[:-1])
        named = named_by(shadow, [found[other] for other in nearest], budget)
        averaged = is_known or not named.problem
        yield "/".join(place) or ".", replace(named, averaged=averaged)


def _walk(root: Any) -> Iterator[tuple[Place, Any]]:
    """Yield every value in which a state dict may lie, with its place, once."""
    pending: list[tuple[Place, Any]] = [((), root)]
    seen: set[int] = set()
    for place, value in pending:
        if id(value) in seen:
            continue
        seen.add(id(value))
        yield place, value
        if len(place) < _MAX_DEPTH:
            pending += [((*place, key), child) for key, child in _children(value)]


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parts of a value in which state dicts may lie."""
    entries = as_dict(value)
    if isinstance(value, list | tuple):
        entries = dict(enumerate(value))
    if is_module(value) or not entries or entries.keys() >= _OPTIMISER:
        return
    for key, child in entries.items():
        is_nested = isinstance(child, list | tuple) or as_dict(child)
        if isinstance(key, str | int) and (is_nested or is_module(child)):
            yield checked_name(str(key)), child


def _container(value: Any, budget: Budget) -> Container:
    """Return a value as a state dict, without tensors if it is none."""
    if is_module(value):
        container = container_of(value, budget)
    else:
        entries = as_dict(value) or {}
        named = [(str(k), v) for k, v in entries.items() if isinstance(k, str | int)]
        found = [(name, tensor_of(value)) for name, value in named]
        tensors = [(name, tensor) for name, tensor in found if tensor is not None]
        held = {name for name, _ in tensors}
        others = {name: value for name, value in named if name not in held}
        container = Container(dict(tensors), others)
        if len(container.tensors) < len(tensors):
            raise CheckpointError(
                "a state dict has two tensors of one name; save it with distinct names."
            )
    return _unwrapped(container)


def _unwrapped(container: Container) -> Container:
    """Return the tensors under their names, without what wrappers put before them.

    The counter of torch's AveragedModel, whose wrapper is `module.`, belongs to it, and
    says that the tensors are averages.
    """
    for name in container.tensors:
        checked_name(name)
    inner = {n: t for n, t in container.tensors.items() if not _is_counter(n, t)}
    length = _wrapper_length(min(inner), max(inner)) if inner else 0
    kept = inner if length else container.tensors
    wrapper, names = _without_wrappers(list(kept), length)
    return Container(
        {name: t.named(name) for name, t in zip(names, kept.values(), strict=True)},
        container.extra,
        averaged=len(kept) < len(container.tensors),
        wrapper=wrapper,
    )


def _without_wrappers(names: list[str], length: int) -> tuple[str, list[str]]:
    """Return what is taken off names, and the rest of them.

    Args:
        names: of all tensors.
        length: of what they share.
    """
    bare = [name[length:] for name in names]
    inside = _inside_names(bare)
    cleaned = [".".join(p for p in n.split(".") if p not in inside) for n in bare]
    if len(set(cleaned)) < len(bare):
        inside, cleaned = set(), bare
    shared = names[0][:length] if names else ""
    return shared + "".join(f"{part}." for part in sorted(inside)), cleaned


def _inside_names(names: list[str]) -> set[str]:
    """Return the wrappers that stand inside names, around layers.

    One that holds half of the tensors in one place is a prefix, of the whole network.
    """
    held: Counter[tuple[str, str]] = Counter()
    for name in names:
        parts = name.split(".")
        held.update(
            (part, ".".join(parts[:place]))
            for place, part in enumerate(parts)
            if part in _TRANSPARENT
        )
    prefixes = {part for (part, _), count in held.items() if 2 * count >= len(names)}
    return {part for part, _ in held} - prefixes


def _is_counter(name: str, tensor: LazyTensor) -> bool:
    return name.rpartition(".")[2] == _COUNTER and tensor.shape == ()


def _wrapper_length(first: str, last: str) -> int:
    """Return how long the wrappers are that two names share.

    What the first and the last name in alphabetical order share, all names share.
    """
    length = 0
    while wrapper := next(
        (w for w in _WRAPPERS if all(n.startswith(w, length) for n in (first, last))),
        "",
    ):
        length += len(wrapper)
    return length
