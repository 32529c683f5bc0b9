"""Proof that two networks compute the same: recorded arrays against the converted one.

A reference is an `.npz` with inputs (`x`, `t`, `sigma`, ...), and for every head the
output `out`, the gradient `vjp` of sum(`ct` * out), and the derivative `jvp` along a
tangent; images are NCHW. Heads other than the default carry `__<name>`. Arrays named
`*_f64` were computed in double precision.
"""

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.host import read_arrays
from diffctl.priors.preconditioning import Preconditioning
from weights_convert.heads import Function, Head, heads, probes, values

Arrays = Mapping[str, np.ndarray]

# Relative L2: ten times the distance of PyTorch's float32 to float64, at least these.
FLOORS = {"out": 1e-5, "vjp": 5e-5, "jvp": 5e-5}
FACTOR = 10.0
LIMIT64 = 1e-9


class NothingToCompareError(ValueError):
    """A reference is of another kind of network."""


class Subject(NamedTuple):
    """A converted network and what decides which functions it is asked for."""

    net: Any
    family: str
    preconditioning: Preconditioning | None = None
    order: str | None = None  # of attention channels, where a reference has both


class Row(NamedTuple):
    """One comparison: relative L2 distance, largest difference and peak, limit."""

    head: str
    quantity: str
    relative: float
    largest: float
    peak: float
    limit: float

    @property
    def passed(self) -> bool:
        """Return whether the distance is within the limit; NaN is not."""
        return self.relative <= self.limit


def compare(subject: Subject, reference: Arrays, dtype: Any = np.float32) -> list[Row]:
    """Compare every head and array of the reference that the network knows.

    In float64 (which needs `jax.enable_x64`) the arrays are those named `*_f64`.

    Raises:
        NothingToCompareError: what the reference has is of other networks.
    """
    inputs = inputs_of(reference, dtype)
    rows = [
        *_compare_heads(subject, reference, inputs, dtype),
        *_compare_values(subject, reference, inputs, dtype),
    ]
    if not rows:
        raise NothingToCompareError(
            f"the reference holds no outputs that a network of the family "
            f"{subject.family} could be compared with; it holds {sorted(reference)}."
        )
    return rows


def compare_probes(subject: Subject, reference: Arrays) -> list[Row]:
    """Compare intermediate values, in the order in which they are computed."""
    inputs = inputs_of(reference, np.float32)
    value = inputs["x_scaled" if "x_scaled" in inputs else "x"]
    limit = FACTOR * FLOORS["out"]
    return [
        row(
            "probe",
            name.removeprefix("probe_"),
            evaluate(function, subject.net, value, inputs),
            channels_last(reference[name]),
            limit,
        )
        for name, function in probes(subject.family).items()
        if name in reference
    ]


def derivatives(
    function: Function, net: Any, value: Any, rest: Any, cotangent: Any, tangent: Any
) -> dict[str, Any]:
    """Return output, VJP and JVP of a function of one example, or of a batch."""
    out, push = jax.linearize(lambda value: function(net, value, rest), value)
    (vjp,) = jax.linear_transpose(push, value)(cotangent)
    return {"out": out, "vjp": vjp, "jvp": push(tangent)}


@partial(jax.jit, static_argnums=0)
def batch_derivatives(
    function: Function, net: Any, value: Any, rest: Any, cotangent: Any, tangent: Any
) -> dict[str, Any]:
    """Return output, VJP and JVP of a batch, compiled."""
    return derivatives(partial(batched, function), net, value, rest, cotangent, tangent)


@partial(jax.jit, static_argnums=0)
def evaluate(function: Function, net: Any, value: Any, rest: Any) -> jax.Array:
    """Return the outputs of a batch, compiled."""
    return batched(function, net, value, rest)


def batched(function: Function, net: Any, value: Any, rest: Any) -> Any:
    """Apply a function of one example to a batch."""
    return jax.vmap(lambda value, rest: function(net, value, rest))(value, rest)


def row(
    head: str, quantity: str, found: Any, expected: np.ndarray, limit: float
) -> Row:
    """Measure the distance of two arrays."""
    found = np.asarray(found, np.float64)
    difference = found - np.asarray(expected, np.float64)
    return Row(
        head=head,
        quantity=quantity,
        relative=float(np.linalg.norm(difference) / np.linalg.norm(expected)),
        largest=float(np.max(np.abs(difference))),
        peak=float(np.max(np.abs(expected))),
        limit=limit,
    )


def channels_last(array: np.ndarray) -> np.ndarray:
    """Turn a batch of images from NCHW to NHWC; leave other arrays alone."""
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def head_names(reference: Arrays, suffix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the heads of a reference, each with its tag in array names."""
    for name in reference:
        stem, tag, head = name.partition("__")
        if stem == f"out{suffix}":
            yield head or "default", f"{tag}{head}"


def lacking(
    head: Head, tag: str, reference: Arrays, suffix: str = ""
) -> dict[str, str]:
    """Return what a reference lacks to compare each quantity of a head, "" if nothing.

    Derivatives are recorded along a direction: `ct` for the VJP, `tan` for the JVP.
    """
    directions = {"out": None, "vjp": f"ct{tag}", "jvp": _tangent(head, reference)}
    return {
        quantity: next(
            (n for n in (f"{quantity}{suffix}{tag}", name) if n and n not in reference),
            "",
        )
        for quantity, name in directions.items()
    }


def uncompared(family: str, reference: Arrays) -> list[str]:
    """Return lines on quantities of heads that a reference lacks something for."""
    known = heads(family, None)
    return [
        f"{quantity} of {name} is not compared: the reference has no array {array}"
        for name, tag in head_names(reference)
        if name in known
        for quantity, array in lacking(known[name], tag, reference).items()
        if array
    ]


def _tangent(head: Head, reference: Arrays) -> str:
    own = f"tan_{head.input}"
    return own if own in reference else "tan"


def head_inputs(
    head: Head, tag: str, reference: Arrays, dtype: Any
) -> tuple[Any, Any, Any]:
    """Return input, cotangent and tangent of a head; zeros for a missing direction."""
    out = next(reference[n] for n in (f"out{tag}", f"out_f64{tag}") if n in reference)
    value = reference[head.input]
    cotangent = reference.get(f"ct{tag}", np.zeros_like(out))
    tangent = reference.get(_tangent(head, reference), np.zeros_like(value))
    given, along, towards = (
        jnp.asarray(channels_last(array), dtype)
        for array in (value, cotangent, tangent)
    )
    return given, along, towards


def _compare_heads(
    subject: Subject, reference: Arrays, inputs: dict[str, Any], dtype: Any
) -> Iterator[Row]:
    known = heads(subject.family, subject.preconditioning)
    suffix = "_f64" if dtype == np.float64 else ""
    for name, tag in head_names(reference, suffix):
        if name not in known or _is_other_order(name, subject.order):
            continue
        function, _, prepare = known[name]
        with _naming_what_lacks(name):
            value, *along = head_inputs(known[name], tag, reference, dtype)
            _check_shapes(reference, suffix, tag, value, along[0])
            rest = prepare(inputs)
            found = batch_derivatives(function, subject.net, value, rest, *along)
        for quantity, missing in lacking(known[name], tag, reference, suffix).items():
            if missing:
                continue
            array = found[quantity]
            expected = channels_last(reference[f"{quantity}{suffix}{tag}"])
            limit = limit_of(reference, quantity, tag, dtype)
            yield row(name, quantity, array, expected, limit)


@contextlib.contextmanager
def _naming_what_lacks(head: str) -> Iterator[None]:
    """Say which array a network cannot be asked without."""
    try:
        yield
    except KeyError as error:
        raise ValueError(
            f"the reference has no array {error}, which the outputs of {head} depend "
            "on; record it beside them."
        ) from error


def _check_shapes(
    reference: Arrays, suffix: str, tag: str, value: Any, cotangent: Any
) -> None:
    """Check what was recorded of a head before it is compiled."""
    shapes = {"out": cotangent.shape, "vjp": value.shape, "jvp": cotangent.shape}
    for quantity, shape in shapes.items():
        name = f"{quantity}{suffix}{tag}"
        found = channels_last(reference[name]).shape if name in reference else shape
        if found != shape:
            raise ValueError(f"{name} has shape {found}, channels last; not {shape}.")


def _compare_values(
    subject: Subject, reference: Arrays, inputs: dict[str, Any], dtype: Any
) -> Iterator[Row]:
    for name, head in values(subject.family, subject.preconditioning).items():
        array = f"{name}_f64" if dtype == np.float64 else name
        if array not in reference:
            continue
        with _naming_what_lacks(name):
            rest = head.prepare(inputs)
            found = evaluate(head.function, subject.net, inputs["x"], rest)
        kind = "vjp" if name.startswith("grad") else "out"
        limit = limit_of(reference, kind, "", dtype)
        yield row(name, kind, found, channels_last(reference[array]), limit)


def limit_of(reference: Arrays, quantity: str, tag: str, dtype: Any) -> float:
    """Return the limit of a comparison.

    A head without arrays in double precision takes the widest of the others.
    """
    if dtype == np.float64:
        return LIMIT64
    errors = {
        other: _relative(reference[f"{quantity}{other}"], reference[name])
        for name in reference
        for other in [name.removeprefix(f"{quantity}_f64")]
        if other != name and f"{quantity}{other}" in reference
    }
    error = errors.get(tag, max(errors.values(), default=0.0))
    return max(FLOORS[quantity], FACTOR * error)


def load_reference(path: str | Path) -> dict[str, np.ndarray]:
    """Read a reference; nothing in it is executed.

    Raises:
        ValueError: the file is no `.npz` of plain arrays, or they are not numbers of as
            many examples each.
    """
    found = read_arrays(Path(path))
    for name, array in found.items():
        if array.dtype.kind not in "biuf" or not array.ndim:
            raise ValueError(
                f"{path}: {name} is {array.dtype} of shape {array.shape}; expected "
                "numbers of one or more examples, along the first axis. Leave it out."
            )
    counts = {len(array) for array in found.values()}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(
            f"{path} has arrays of {sorted(counts) or 'no'} examples; expected as many "
            "in each, at least 1."
        )
    return found


def _relative(found: np.ndarray, expected: np.ndarray) -> float:
    return row("", "", found, expected, 0.0).relative


def _is_other_order(head: str, order: str | None) -> bool:
    return head in ("legacy", "new") and order is not None and head != order


def inputs_of(reference: Arrays, dtype: Any) -> dict[str, Any]:
    """Return the arrays that may be inputs, real ones in `dtype`, channels last."""
    inputs = {}
    for name, array in reference.items():
        if name.split("_")[0] in ("out", "vjp", "jvp", "ct", "probe", "tan", "grad"):
            continue
        is_real = array.dtype.kind == "f" or name == "t"
        kind = dtype if is_real else np.int32
        inputs[name] = jnp.asarray(channels_last(array), kind)
    return inputs
