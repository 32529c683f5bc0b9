"""Averaged weights that were saved without names.

yang-song/score_sde_pytorch and the libraries that follow it keep the averages of
`model.parameters()` as the list `shadow_params`, beside the state dict of the model;
others keep a list under a key that says averaged (`ema`, `ema_weights`, `ema/0.9999`).
The order of a state dict is that of the parameters, with buffers and frozen parameters
in between: the list is a subsequence of it, and the shapes tell which. What is not
averaged is taken from the model.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from weights_convert.readers.arrays import tensor_of
from weights_convert.readers.average_names import says_averaged
from weights_convert.readers.checkpoint import Container
from weights_convert.readers.machine import Budget
from weights_convert.readers.modules import as_dict
from weights_convert.readers.tensors import LazyTensor

_KEY = "shadow_params"


def averages(value: Any) -> list[LazyTensor]:
    """Return the averages that a dictionary holds under their usual key, if any."""
    return _tensors((as_dict(value) or {}).get(_KEY))


def called_averages(place: Sequence[str], value: Any) -> list[LazyTensor]:
    """Return a list of tensors whose place says averaged, or nothing.

    Numbers alone, such as a history of losses, are no weights, and what lies under the
    usual key is found with the dictionary around it.
    """
    is_list = isinstance(value, list | tuple) and _KEY not in place[-1:]
    found = _tensors(value) if is_list and any(map(says_averaged, place)) else []
    is_weights = any(t.shape for t in found) and len(found) == len(value)
    return found if is_weights else []


def _tensors(value: Any) -> list[LazyTensor]:
    """Return the tensors in a list."""
    found = map(tensor_of, value) if isinstance(value, list | tuple) else ()
    return [tensor for tensor in found if tensor is not None]


def named_by(
    shadow: Sequence[LazyTensor], models: Iterable[Container], budget: Budget
) -> Container:
    """Return averages under the names of a model beside them.

    The result has a `problem` if no model fits, or if one fits in several ways.
    """
    problem = "holds averages without names, and no state dict beside it fits them"
    for model in models:
        if len(model.tensors) < len(shadow):
            continue
        names = list(model.tensors)
        budget.spend(len(names) + len(shadow))
        first = _places(shadow, [model.tensors[name] for name in names])
        if first is None:
            continue
        backwards = _places(shadow[::-1], [model.tensors[n] for n in names[::-1]])
        if backwards != [len(names) - 1 - place for place in first[::-1]]:
            problem = (
                "holds averages without names, and their shapes do not tell which "
                "tensors of the model are not averaged"
            )
            continue
        chosen = {names[place]: t for place, t in zip(first, shadow, strict=True)}
        tensors = {
            n: chosen[n].named(n) if n in chosen else model.tensors[n] for n in names
        }
        return Container(tensors, model.extra, averaged=True)
    unnamed = {str(i): t for i, t in enumerate(shadow)}
    return Container(unnamed, averaged=True, problem=problem)


def _places(
    shadow: Sequence[LazyTensor], model: Sequence[LazyTensor]
) -> list[int] | None:
    """Return where in a model each average finds the first tensor of its shape."""
    places: list[int] = []
    for place, tensor in enumerate(model):
        if len(places) < len(shadow) and tensor.shape == shadow[len(places)].shape:
            places.append(place)
    return places if len(places) == len(shadow) else None
