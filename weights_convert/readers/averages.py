"""Averaged weights that were saved without names.

yang-song/score_sde_pytorch and the libraries that follow it keep the averages of
`model.parameters()` as the list `shadow_params`, beside the state dict of the model.
The order of a state dict is that of the parameters, with buffers and frozen parameters
in between: the list is a subsequence of it, and the shapes tell which. What is not
averaged is taken from the model.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from weights_convert.readers.arrays import tensor_of
from weights_convert.readers.checkpoint import Container
from weights_convert.readers.machine import Budget
from weights_convert.readers.modules import as_dict
from weights_convert.readers.tensors import LazyTensor

_KEY = "shadow_params"


def averages(value: Any) -> list[LazyTensor]:
    """Return the averages that a dictionary holds under their usual key, if any."""
    entries = (as_dict(value) or {}).get(_KEY)
    tensors = map(tensor_of, entries) if isinstance(entries, list | tuple) else ()
    return [tensor for tensor in tensors if tensor is not None]


def named_by(
    shadow: Sequence[LazyTensor], models: Iterable[Container], budget: Budget
) -> Container:
    """Return averages under the names of a model beside them.

    The result has a `problem` if no model fits, or if one fits in several ways.
    """
    problem = "holds averages without names, and no state dict beside it fits them"
    for model in models:
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
