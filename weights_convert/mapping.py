"""Which tensor of a file fills which parameter: rules as data, matched strictly.

A rule joins a tensor name and a parameter path, both with fields (see `templates`).
Of several rules for one parameter the first is used in the direction of export.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from diffctl.priors.storage import parameter_names
from weights_convert.templates import counted_back, fill, parse
from weights_convert.transforms import Leaf, forward

Shapes = Mapping[str, tuple[int, ...]]

_SHOWN = 20  # problems in an error


class MappingError(ValueError):
    """The tensors of a file and the parameters of the network do not fit together."""


class Rule(NamedTuple):
    """One kind of tensor and where it goes.

    `part` p means: the p-th third of the last axis (query, key or value).
    """

    pattern: str
    path: str
    transform: tuple[str, ...] = ()
    part: int | None = None


class Layer(NamedTuple):
    """A layer of the file and the module that it becomes; see `KINDS`."""

    pattern: str
    path: str
    kind: str
    order: str = ""  # of the channels of a joint q/k/v layer; "": as in the network
    part: int | None = None


class Source(NamedTuple):
    """A tensor that fills a parameter, or a third of it."""

    tensor: str
    rule: Rule


# Tensor suffix, parameter, transforms.
_BIAS = ("bias", "bias", ())
KINDS: dict[str, tuple[tuple[str, str, tuple[str, ...]], ...]] = {
    "conv": (("weight", "kernel", ("conv",)), _BIAS),
    "linear": (("weight", "kernel", ("transpose",)), _BIAS),
    "point1": (("weight", "kernel", ("squeeze1", "transpose")), _BIAS),
    "point2": (("weight", "kernel", ("squeeze2", "transpose")), _BIAS),
    "norm": (("weight", "scale", ()), _BIAS),
    "table": (("weight", "table", ()),),  # (classes, features)
    "matrix": (("weight", "table", ("transpose",)),),  # (features, classes)
}


def rules(layers: Iterable[Layer]) -> tuple[Rule, ...]:
    """Spell out the tensors of each layer."""
    return tuple(
        Rule(
            pattern=f"{layer.pattern}.{suffix}",
            path=f"{layer.path}.{name}",
            transform=((layer.order,) if layer.order else ()) + transform,
            part=layer.part,
        )
        for layer in layers
        for suffix, name, transform in KINDS[layer.kind]
    )


def nest(pattern: str, path: str, layers: Iterable[Layer]) -> list[Layer]:
    """Put layers under a prefix on both sides."""
    return [
        layer._replace(
            pattern=f"{pattern}.{layer.pattern}" if layer.pattern else pattern,
            path=f"{path}.{layer.path}" if layer.path else path,
        )
        for layer in layers
    ]


def prefixed(prefix: str, rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """Put a prefix, with its dot, before the tensor names of rules."""
    return tuple(rule._replace(pattern=f"{prefix}{rule.pattern}") for rule in rules)


def leaves_of(net: Any) -> dict[str, Leaf]:
    """Return every parameter of a (possibly abstract) network by its path."""
    arrays = jax.tree.leaves(net)
    return {
        path: Leaf(path, tuple(array.shape), array.dtype, _heads(net, path))
        for path, array in zip(parameter_names(net), arrays, strict=True)
    }


def match(
    shapes: Shapes, rules: Sequence[Rule], leaves: Mapping[str, Leaf]
) -> dict[str, list[Source]]:
    """Assign every tensor to one parameter and fill every parameter once.

    Args:
        shapes: shape of every tensor of the file.
        rules: the table of the family.
        leaves: the parameters, from `leaves_of`.

    Returns:
        For every parameter its sources: one tensor, or the three parts in order.

    Raises:
        MappingError: anything is left over, missing, doubled or of another shape.
    """
    filled: dict[str, list[Source]] = {path: [] for path in leaves}
    unknown = []
    for tensor in shapes:
        target = _target(tensor, rules, leaves)
        if target is None:
            unknown.append(tensor)
        else:
            filled[target[0]].append(Source(tensor, target[1]))
    for sources in filled.values():
        sources.sort(key=lambda source: source.rule.part or 0)
    problems = [
        *_leftovers(unknown, filled, rules, leaves),
        *_doubled(filled),
        *_misshapen(filled, shapes, leaves),
    ]
    if problems:
        raise MappingError(_summary(problems))
    return filled


def expected_tensors(
    path: str, rules: Sequence[Rule], leaves: Mapping[str, Leaf]
) -> list[Source]:
    """Return the tensor, or the three parts, that a file of this layout has for a leaf.

    Raises:
        MappingError: no rule leads to this parameter.
    """
    found: list[Source] = []
    for rule in rules:
        fields = parse(rule.path, path)
        if fields is None or (found and rule.part in (None, 0)):
            continue
        if found and rule.part != len(found):
            continue
        name = fill(rule.pattern, rule.path, fields, leaves)
        found.append(Source(name, rule))
        if rule.part in (None, 2):
            return found
    raise MappingError(f"no rule of the family leads to the parameter {path}.")


def _target(
    tensor: str, rules: Sequence[Rule], leaves: Mapping[str, Leaf]
) -> tuple[str, Rule] | None:
    for rule in rules:
        fields = parse(rule.pattern, tensor)
        if fields is None:
            continue
        path = fill(
            rule.path,
            rule.path,
            counted_back(rule.pattern, rule.path, fields, leaves),
            leaves,
        )
        if path in leaves:
            return path, rule
    return None


def _leftovers(
    unknown: list[str],
    filled: Mapping[str, list[Source]],
    rules: Sequence[Rule],
    leaves: Mapping[str, Leaf],
) -> Iterator[str]:
    missing = []
    for path, sources in filled.items():
        parts = {source.rule.part for source in sources}
        if parts not in ({None}, {0, 1, 2}):
            wanted = expected_tensors(path, rules, leaves)
            missing += [s.tensor for s in wanted if s.rule.part not in parts]
    for number, tensor in enumerate(unknown):
        hint = _nearest("expected", tensor, missing) if number < _SHOWN else ""
        yield f"the file's {tensor} has no place in the network{hint}"
    for number, tensor in enumerate(missing):
        hint = _nearest("left over", tensor, unknown) if number < _SHOWN else ""
        yield f"the network needs {tensor}, which the file does not have{hint}"


def _nearest(what: str, name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f" (nearest name {what}: {near[0]})" if near else ""


def _doubled(filled: Mapping[str, list[Source]]) -> Iterator[str]:
    for path, sources in filled.items():
        parts = [source.rule.part for source in sources]
        if len(set(parts)) < len(parts) or (None in parts and len(parts) > 1):
            names = ", ".join(source.tensor for source in sources)
            yield f"{names} all claim the parameter {path}"


def _misshapen(
    filled: Mapping[str, list[Source]], shapes: Shapes, leaves: Mapping[str, Leaf]
) -> Iterator[str]:
    for path, sources in filled.items():
        for tensor, rule in sources:
            wanted = part_shape(leaves[path], rule.part)
            found = _transformed_shape(rule, shapes[tensor], leaves[path])
            if found != wanted:
                yield (
                    f"{tensor} has shape {shapes[tensor]}; the parameter {path} of "
                    f"shape {leaves[path].shape} cannot be made of it"
                )


def part_shape(leaf: Leaf, part: int | None) -> tuple[int, ...]:
    """Return the shape of a parameter, or of a third of its last axis."""
    if part is None:
        return leaf.shape
    return (*leaf.shape[:-1], leaf.shape[-1] // 3)


def _transformed_shape(
    rule: Rule, shape: tuple[int, ...], leaf: Leaf
) -> tuple[int, ...] | None:
    abstract = jax.ShapeDtypeStruct(shape, "float32")
    try:
        out = jax.eval_shape(lambda a: forward(rule.transform, a, leaf), abstract)
    except (TypeError, ValueError):  # another number of axes, not divisible by heads
        return None
    return out.shape


def _summary(problems: list[str]) -> str:
    rest = len(problems) - _SHOWN
    lines = problems[:_SHOWN] + ([f"... and {rest} more"] if rest > 0 else [])
    return "the file does not fit the network:\n  " + "\n  ".join(lines)


def _heads(net: Any, path: str) -> int:
    heads, module = 1, net
    for name in path.split(".")[:-1]:
        inner = getattr(module, name, None)
        module = module[int(name)] if inner is None else inner
        heads = getattr(module, "heads", heads)
    return heads
