"""The weight of a quadratic regulariser, found from the measurement itself.

With x(w) the minimum that `Tikhonov` finds for the weight w, m the number of measured
numbers, and H(w) = A (A^T A / s_y^2 + w K^T K)^{-1} A^T / s_y^2, by which y predicts
A x(w) if the target is zero,

1. discrepancy        |A x(w) - y|^2 = m s_y^2
2. cross-validation   m |A x(w) - y|^2 / (m - tr H(w))^2, as small as can be
3. trace              tr H = E v^T H v for independent entries v = +-1

(1) takes the measurement at its word, so that it smooths too much rather than too
little; (2) does without s_y, up to the scale of w.
"""

import dataclasses
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffctl.core import QuadraticPrior
from diffctl.numerics.concrete import any_concrete, is_known
from diffctl.numerics.precision import as_computed
from diffctl.numerics.vectors import from_vector, to_vector, vector_size
from diffctl.operators.base import Problem
from diffctl.solvers.classical.tikhonov import Tikhonov
from diffctl.solvers.costs import averaging_count
from diffctl.solvers.driver import run
from diffctl.solvers.ranges import check_setting
from diffctl.solvers.requirements import check_inputs, linear

AnyQuadratic = TypeVar("AnyQuadratic", bound=QuadraticPrior)

# Each halves the range of log w, 37 by default: below the rounding of float64.
NUM_BISECTIONS = 60


def tune_weight_by_discrepancy(
    problem: Problem,
    prior: AnyQuadratic,
    *,
    least: float = 1e-8,
    most: float = 1e8,
    solver: Tikhonov | None = None,
) -> AnyQuadratic:
    """Return the prior with the weight of (1), by bisection: the misfit grows with w.

    Cost: 62 solutions.

    Args:
        problem: one example, with a linear operator and white noise.
        prior: its own weight is not looked at.
        least: the smallest weight that may be the answer, > 0.
        most: the largest, > least.
        solver: how x(w) is found.

    Raises:
        ValueError: `least` and `most` are no such numbers; no weight in between fits
            the measurement as well as its noise says; or as `solve`.
        TypeError: as `solve`.

    Source: Morozov, On the solution of functional equations by the method of
    regularization, 1966.
    """
    solver = Tikhonov() if solver is None else solver
    ends = as_computed([least, most])
    if not 0 < ends[0] < ends[1] < np.inf:
        raise ValueError(
            f"least is {least} and most is {most}, {ends} in {ends.dtype}; expected "
            "0 < least < most, both finite. The search is on a logarithmic scale, so "
            "let them be far apart."
        )
    check_inputs(problem, prior, solver)
    misfits = [
        _misfit(problem, _changed(prior, weight=w), solver) for w in (least, most)
    ]
    if any_concrete(lambda low, high: ~((low <= 1) & (high >= 1)), *misfits):
        low, high = map(float, misfits)
        raise ValueError(
            f"the misfit is {low:.3g} with weight {least:g} and {high:.3g} with "
            f"{most:g}; expected 1 in between, where the noise explains it. Above 1 "
            "the noise is stronger than its std says, or the operator is another one; "
            "below 1 it is weaker. Correct the std, or move `least` and `most`."
        )
    return _bisect(problem, prior, jnp.log(least), jnp.log(most), solver)


def tune_weight_by_cross_validation(
    key: jax.Array,
    problem: Problem,
    prior: AnyQuadratic,
    weights: jax.Array,
    *,
    num_probes: int = 16,
    solver: Tikhonov | None = None,
) -> AnyQuadratic:
    """Return the prior with that of the weights for which (2) is least.

    Cost: (1 + num_probes) solutions for each weight.

    Args:
        key: of the probes, the same for all weights.
        problem: one example, with a linear operator and white noise, whose std only
            scales the weights.
        prior: its own weight is not looked at.
        weights: those to choose from, (n,) > 0; `jnp.logspace(-3, 3, 25)`, say.
        num_probes: of (3), at least 1.
        solver: how x(w) is found.

    Raises:
        ValueError: weights that are no positive numbers in a row, no probe; or as
            `solve`.
        TypeError: as `solve`.

    Source: Golub, Heath and Wahba, Generalized cross-validation as a method for
    choosing a good ridge parameter, Technometrics 1979; (3) is Hutchinson, A stochastic
    estimator of the trace of the influence matrix, 1990.
    """
    solver = Tikhonov() if solver is None else solver
    given, weights = weights, jnp.asarray(weights)
    out_of_range = is_known(given) and not np.all(
        (as_computed(given) > 0) & np.isfinite(as_computed(given))
    )
    if weights.ndim != 1 or not weights.size or out_of_range:
        raise ValueError(
            f"weights is {weights} with shape {weights.shape}; expected positive "
            "numbers in a row, such as jnp.logspace(-3, 3, 25)."
        )
    if any_concrete(lambda count: count == 0, problem.operator.num_observed()):
        raise ValueError(
            "the operator observes nothing; expected a measurement, for which weights "
            "differ. Choose the weight by hand."
        )
    check_setting("tune_weight_by_cross_validation", "num_probes", num_probes)
    check_inputs(problem, _changed(prior, weight=weights[0]), solver)
    scores = _scores(key, problem, prior, weights, solver, num_probes)
    return _changed(prior, weight=weights[jnp.nanargmin(scores)])


def cross_validation_score(
    key: jax.Array,
    problem: Problem,
    prior: QuadraticPrior,
    solver: Tikhonov,
    num_probes: int,
) -> jax.Array:
    """Return (2) in units of s_y^2 for the weight of the prior, ()."""
    influence = influence_trace(key, problem, prior, solver, num_probes)
    free = 1 - influence / averaging_count(problem)
    return _misfit(problem, prior, solver) / free**2


def influence_trace(
    key: jax.Array,
    problem: Problem,
    prior: QuadraticPrior,
    solver: Tikhonov,
    num_probes: int,
) -> jax.Array:
    """Return tr H by (3), ()."""
    operator = linear(problem)
    homogeneous = _changed(prior, target=jnp.zeros_like(prior.target))
    size, dtype = vector_size(problem.y), prior.target.dtype

    def product(key: jax.Array) -> jax.Array:
        signs = jax.random.rademacher(key, (size,), dtype)
        probe = operator.restrict(from_vector(signs, problem.y))
        posed = dataclasses.replace(problem, y=probe)
        predicted = operator(_solution(posed, homogeneous, solver))
        return jnp.vdot(to_vector(probe), to_vector(predicted))

    return jnp.mean(jax.vmap(product)(jax.random.split(key, num_probes)))


@partial(jax.jit, static_argnames="num_probes")
def _scores(
    key: jax.Array,
    problem: Problem,
    prior: QuadraticPrior,
    weights: jax.Array,
    solver: Tikhonov,
    num_probes: int,
) -> jax.Array:
    """Return (2) for each weight, (n,)."""

    def score(weight: jax.Array) -> jax.Array:
        weighed = _changed(prior, weight=weight)
        return cross_validation_score(key, problem, weighed, solver, num_probes)

    return lax.map(score, weights)


@jax.jit
def _bisect(
    problem: Problem,
    prior: AnyQuadratic,
    low: jax.Array,
    high: jax.Array,
    solver: Tikhonov,
) -> AnyQuadratic:
    """Return the prior with the weight of (1), whose logarithm is in between."""

    def halve(ends: tuple[jax.Array, jax.Array], _: None) -> tuple[Any, None]:
        low, high = ends
        middle = (low + high) / 2
        fits = _misfit(problem, _changed(prior, weight=jnp.exp(middle)), solver) < 1
        return (jnp.where(fits, middle, low), jnp.where(fits, high, middle)), None

    (low, high), _ = lax.scan(halve, (low, high), None, length=NUM_BISECTIONS)
    return _changed(prior, weight=jnp.exp((low + high) / 2))


@jax.jit
def _misfit(problem: Problem, prior: QuadraticPrior, solver: Tikhonov) -> jax.Array:
    """Return |A x(w) - y|^2 / (m s_y^2), (): 1 in (1)."""
    x = _solution(problem, prior, solver)
    return 2 * problem.misfit(x) / averaging_count(problem)


def _solution(problem: Problem, prior: QuadraticPrior, solver: Tikhonov) -> jax.Array:
    """Return x(w) for the weight of the prior, (*shape)."""
    return run(jax.random.key(0), problem, prior, solver).x  # no step is random


def _changed(prior: AnyQuadratic, **fields: Any) -> AnyQuadratic:
    return dataclasses.replace(prior, **fields)  # type: ignore[type-var]
