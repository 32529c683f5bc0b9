"""Host-side checks of a problem before it is solved."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.numerics.concrete import concrete
from diffctl.operators.base import Problem
from diffctl.operators.checks import require
from diffctl.operators.noise import GaussianNoise

# |y| beyond the range of A(x) by more than this many noise std is a wrong unit:
# the largest of 1e9 normal draws stays below 6.2.
_MAX_SIGMAS = 8


def validate_problem(
    problem: Problem, prior_shape: tuple[int, ...] | None = None
) -> None:
    """Raise ValueError if a problem cannot be what its author meant.

    Checks shapes of signal and measurement, dtypes, NaN, the scale of the measurement
    and the parameters of the noise. Values are checked only where they are concrete, so
    this may run while tracing. One example; of a batch check one, and the noise of all
    where it differs.

    Args:
        problem: the problem of one example.
        prior_shape: `prior.shape`, if it is to be compared with the operator's.
    """
    _check_signal(problem.operator.shape, prior_shape)
    clean = problem.operator.measurement_spec()
    _check_measurement(problem.y, problem.noise.measurement(clean))
    problem.noise.check(problem.y, clean)
    _check_range(problem)


def _check_signal(shape: tuple[int, ...], prior_shape: tuple[int, ...] | None) -> None:
    if prior_shape is None or shape == prior_shape:
        return
    if len(shape) == len(prior_shape) == 3 and shape[:2] == prior_shape[:2]:
        raise ValueError(
            f"the operator takes images with {shape[2]} channels but the prior models "
            f"{prior_shape[2]}. Build the operator with shape={prior_shape}."
        )
    raise ValueError(
        f"the operator takes signals of shape {shape} but the prior models "
        f"{prior_shape} (one example). Build the operator with shape={prior_shape}."
    )


def _check_measurement(y: Any, expected: Any) -> None:
    structure: Any = jax.tree.structure(y)
    wanted: Any = jax.tree.structure(expected)
    require(
        structure == wanted,
        f"the measurement has the structure {structure}; expected {wanted}, which the "
        "operator returns.",
    )
    leaves = zip(jax.tree.leaves(y), jax.tree.leaves(expected), strict=True)
    for leaf, spec in leaves:
        _check_array(leaf, spec)


def _check_array(leaf: Any, expected: jax.ShapeDtypeStruct) -> None:
    y = jax.typeof(leaf)
    batched = y.shape[1:] == expected.shape
    cure = (
        "It looks like a batch: use solve_batch, or jax.vmap."
        if batched
        else "Images are (height, width, channels); make operator and data agree."
    )
    require(
        y.shape == expected.shape,
        f"the measurement has shape {y.shape}; expected {expected.shape}, which the "
        f"operator returns for one example. {cure}",
    )
    require(
        _kind(y) == _kind(expected),
        f"the measurement has dtype {y.dtype}; expected {_kind(expected)}. "
        "Convert 8-bit images by `y / 127.5 - 1`.",
    )
    numbers = concrete(leaf)
    if numbers is None or _kind(y) == "an integer":
        return
    bad = int(np.sum(~np.isfinite(numbers)))
    require(
        bad == 0,
        f"the measurement has {bad} NaN or infinite entries of {y.size}; expected "
        "finite numbers. Mark lost pixels by a Mask and call `operator.restrict(y)`.",
    )


def _check_range(problem: Problem) -> None:
    """Compare the size of a measurement with the largest that an image can give."""
    with jax.ensure_compile_time_eval():  # known, where the operator is known
        bound = problem.operator.bound
    if bound is None or not isinstance(problem.noise, GaussianNoise):
        return
    bound, std, y = map(concrete, (bound, problem.noise.std, problem.y))
    if bound is None or std is None or y is None:
        return
    limit, largest = bound + _MAX_SIGMAS * std, np.max(np.abs(y), initial=0)
    if largest > limit:
        raise ValueError(
            f"the measurement reaches {float(largest):.3g} in size; expected at most "
            f"{float(limit):.3g} for images in [-1, 1] with noise std "
            f"{float(std):.3g}. Convert 8-bit data by `y / 127.5 - 1` and [0, 1] data "
            "by `2 * y - 1`."
        )


def _kind(array: Any) -> str:
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        return "complex numbers"
    is_float = jnp.issubdtype(array.dtype, jnp.floating)
    return "floating-point numbers" if is_float else "an integer"
