"""Regularisation by denoising, by gradient descent.

With a denoiser D at level s and the strength l:

1. x <- x - size / (L + l) (grad f(x) + l (x - D(x)))
2. L = |A|^2 / s_y^2
"""

from typing import Any, ClassVar

import jax

from diffctl.core import ProximalPrior, StepTrace
from diffctl.operators.base import LinearOperator, Problem, WhiteNoise
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.classical.data_term import curvature, gradient, grey
from diffctl.solvers.classical.penalties import PenaltySolver, penalty_of_level


@pytree_dataclass
class RED(PenaltySolver):
    """Regularisation by denoising (Romano et al., 2017), steepest descent.

    The strength l is the penalty and D(x) is `prior.prox(x, 1 / l)`: a `DenoiserProx`
    of weight w denoises at s = sqrt(w / l). With weight 1, l (x - D(x)) is minus the
    score of the prior at level s (Tweedie), so that this is gradient descent on
    -log p(y | x) - log p_s(x).

    x - D(x) is the gradient of R(x) = x^T (x - D(x)) / 2 only for denoisers that are
    locally homogeneous and have symmetric Jacobians; for others there may be no energy.
    The fixed-point iteration of the same paper is `HQS.red_fixed_point`; its ADMM is
    `ADMM` with the prior `RegularizedByDenoising`.

    Requirements: a linear operator, white noise, a proximal prior used as denoiser.

    Slow where little is measured: gaps move by l / (L + l) of what the denoiser asks.

    Cost: n proximal maps (a `DenoiserProx` makes 1 forward in each), n products with
    A^T A and, for the misfit, A; 72 with A^T A at the start for the norm of A if it has
    no singular system.

    Args:
        num_steps: n.
        penalty: l of the first iteration, (); the default is a level of 0.5.
        final_penalty: of the last one; the default is a level of 0.05.
        step_size: relative to 1 / (L + l), in (0, 2) for denoisers with 0 <= D' <= 1.
    """

    requires: ClassVar[tuple[type, type]] = (LinearOperator, ProximalPrior)
    requires_noise: ClassVar[type] = WhiteNoise
    cost_formula: ClassVar[str] = "n prox"
    reference: ClassVar[str] = (
        "Romano et al., The Little Engine That Could: Regularization by Denoising "
        "(RED), SIAM J. Imaging Sciences 2017"
    )

    num_steps: int = static(default=200)
    final_penalty: Any = penalty_of_level(0.05)
    step_size: Any = 1.0

    def start(self, key: jax.Array, problem: Problem, prior: ProximalPrior) -> Any:
        x = grey(problem)
        return x, curvature(key, problem, x)

    def step(
        self, carry: Any, x: Any, problem: Problem, prior: ProximalPrior
    ) -> tuple[Any, StepTrace]:
        (state, bend), (strength, _) = carry, x
        denoised = prior.prox(state, 1 / strength)
        slope = gradient(problem, state) + strength * (state - denoised)
        moved = state - self.step_size / (bend + strength) * slope
        trace = StepTrace(misfit=problem.misfit(moved), calls=prior.prox_calls())
        return (moved, bend), trace

    def finalize(self, carry: Any, problem: Problem, prior: ProximalPrior) -> jax.Array:
        return carry[0]
