"""The state dict of a pickled module, put together from inert records.

`torch.save(module)` and the pickles of NVlabs/edm hold whole objects: nested modules
with `_parameters`, `_buffers` and `_modules`. The latter also carry the source code of
their classes, which stays text.
"""

from typing import Any

from weights_convert.readers.arrays import tensor_of
from weights_convert.readers.checkpoint import Container
from weights_convert.readers.inert import Opaque, name_of
from weights_convert.readers.machine import Budget
from weights_convert.readers.tensors import (
    CheckpointError,
    LazyTensor,
    checked_name,
    show,
)

_MAX_DEPTH = 32


def _attributes(value: Any) -> dict[str, Any]:
    """Return what would have become the attributes of an object."""
    if not isinstance(value, Opaque):
        return {}
    state = _persistent(value).get("state", value.state)
    return state if type(state) is dict else {}


def _persistent(value: Opaque) -> dict[str, Any]:
    """Return the description of a class that travels with its source code."""
    is_persistent = (
        name_of(value.function).endswith("._reconstruct_persistent_obj")
        and type(value.args) is tuple
    )
    meta = as_dict(value.args[0]) if is_persistent and value.args else None
    return meta or {}


def as_dict(value: Any) -> dict[Any, Any] | None:
    """Return a dictionary, or the entries of an inert subclass of one."""
    if isinstance(value, Opaque) and value.state is None:
        return value.entries
    return value if type(value) is dict else None


def is_module(value: Any) -> bool:
    """Return whether a value is the record of a torch module."""
    attributes = _attributes(value)
    return all(
        type(attributes.get(part)) is dict for part in ("_parameters", "_modules")
    )


def _class_name(module: Opaque) -> str:
    """Return the name of the class of a module."""
    function = module.function
    if name_of(function).endswith("._reconstructor") and type(module.args) is tuple:
        function = module.args[0] if module.args else None
    name = _persistent(module).get("class_name", name_of(function))
    return name.rpartition(".")[2] if type(name) is str else ""


def container_of(module: Opaque, budget: Budget) -> Container:
    """Return the state dict of a module, and how the module was made.

    Args:
        module: for which `is_module` holds.
        budget: shared by the modules of a file, which may share their parts.

    Raises:
        CheckpointError: if a parameter is no plain tensor, or the nesting is absurd.
    """
    attributes = _attributes(module)
    tensors: dict[str, LazyTensor] = {}
    _collect(module, "", tensors, budget)
    keywords = _part(attributes, "_init_kwargs", budget)
    extra = {
        "class_name": _class_name(module),
        "init_args": attributes.get("_init_args", ()),
        "init_kwargs": {k: as_dict(v) or v for k, v in keywords.items()},
    }
    return Container(tensors, extra)


def _collect(
    module: Any, prefix: str, tensors: dict[str, LazyTensor], budget: Budget
) -> None:
    """Add the tensors of a module and of those inside it, in the order of PyTorch."""
    if prefix.count(".") > _MAX_DEPTH:
        raise CheckpointError(f"modules are nested more than {_MAX_DEPTH} deep.")
    attributes = _attributes(module)
    own = _part(attributes, "_parameters", budget)
    own = own | _persistent_buffers(attributes, budget)
    for name, value in own.items():
        place, tensor = _place(prefix, name), tensor_of(value)
        if tensor is not None:
            tensors[place] = tensor
        elif value is not None:
            raise CheckpointError(
                f"{show(place)} is no plain tensor; save the state dict."
            )
    for name, child in _part(attributes, "_modules", budget).items():
        place = _place(prefix, name)
        if is_module(child):
            _collect(child, f"{place}.", tensors, budget)
        elif child is not None:
            raise CheckpointError(f"{show(place)} is no module; save the state dict.")


def _persistent_buffers(attributes: dict[str, Any], budget: Budget) -> dict[Any, Any]:
    """Return the buffers that a state dict has."""
    transient = attributes.get("_non_persistent_buffers_set")
    names = transient if isinstance(transient, list | tuple) else ()
    budget.spend(len(names))
    left_out = {name for name in names if type(name) is str}
    buffers = _part(attributes, "_buffers", budget)
    return {name: value for name, value in buffers.items() if name not in left_out}


def _part(attributes: dict[str, Any], name: str, budget: Budget) -> dict[Any, Any]:
    """Return a dictionary among the attributes; many modules may share a long one."""
    entries = as_dict(attributes.get(name)) or {}
    budget.spend(1 + len(entries))
    return entries


def _place(prefix: str, name: Any) -> str:
    if type(name) is not str:
        raise CheckpointError("a module has parts whose names are no text.")
    return checked_name(f"{prefix}{name}")
