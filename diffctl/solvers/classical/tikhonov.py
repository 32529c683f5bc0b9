"""Tikhonov regularisation: the closed form of a quadratic energy.

(A^T A + s_y^2 weight K^T K) x = A^T y + s_y^2 weight K^T target
"""

from typing import Any, ClassVar

import jax

from diffctl.core import Calls, QuadraticPrior, StepTrace
from diffctl.operators.base import LinearOperator, Problem, WhiteNoise
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.classical.data_term import analysis_of, fit, grey
from diffctl.solvers.iterations import IterativeSolver


@pytree_dataclass
class Tikhonov(IterativeSolver):
    """The minimum of |A x - y|^2 / (2 s_y^2) + weight / 2 |K x - target|^2.

    It is the posterior mean (and mode) of the Gaussian prior with precision
    weight K^T K and mean x_ref, if target = K x_ref. The result is unique if no signal
    is in the null spaces of both A and K; otherwise it is the one nearest to grey.
    `solvers.classical.weights` finds the weight from the measurement.

    Requirements: a linear operator, white noise, a quadratic prior.

    Cost: no network; num_steps (num_inner + 1) products with A^T A and K^T K, or for
    K = I and an A with a singular system none but with its factors (s_i / (s_i^2 +
    weight s_y^2) filters them).

    Args:
        num_steps: rounds of conjugate gradients, each from the last result; more than
            one repairs what rounding has spoilt on ill-conditioned problems.
        num_inner: conjugate gradients in each round; d are exact but for rounding.
    """

    requires: ClassVar[tuple[type, type]] = (LinearOperator, QuadraticPrior)
    requires_noise: ClassVar[type] = WhiteNoise
    cost_formula: ClassVar[str] = "0"
    reference: ClassVar[str] = (
        "Tikhonov, Solution of Incorrectly Formulated Problems and the Regularization "
        "Method, 1963"
    )

    num_steps: int = static(default=2)
    num_inner: int = static(default=100)

    def start(
        self, key: jax.Array, problem: Problem, prior: QuadraticPrior
    ) -> jax.Array:
        return grey(problem)

    def step(
        self, carry: jax.Array, x: Any, problem: Problem, prior: QuadraticPrior
    ) -> tuple[jax.Array, StepTrace]:
        split, target = analysis_of(prior), prior.target
        moved = fit(problem, split, prior.weight, target, carry, self.num_inner)
        trace = StepTrace(misfit=problem.misfit(moved), calls=Calls())
        return moved, trace

    def finalize(
        self, carry: jax.Array, problem: Problem, prior: QuadraticPrior
    ) -> jax.Array:
        return carry
