"""Half-quadratic splitting; plug-and-play with a denoiser.

1. x <- argmin_x f(x) + p / 2 |x - v|^2      singular system, or CG from v
2. v <- argmin_v R(v) + p / 2 |v - x|^2      the prior's proximal map
"""

from typing import Any, ClassVar

import jax

from diffctl.core import ProximalPrior, StepTrace
from diffctl.operators.base import LinearOperator, Problem, WhiteNoise
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.classical.data_term import IDENTITY, fit, grey
from diffctl.solvers.classical.penalties import PenaltySolver, penalty_of_level


@pytree_dataclass
class HQS(PenaltySolver):
    """Half-quadratic splitting for f(x) + R(x), f(x) = |A x - y|^2 / (2 s_y^2).

    ADMM without the dual variable: it minimises f + R only in the limit of a rising
    penalty. At a fixed penalty p its fixed point is that of the Moreau envelope of R;
    for an exact Gaussian denoiser at level s, the posterior mean of the prior that is
    wider by s^2. The last x is returned, which has seen the measurement last.

    Requirements: a linear operator, white noise, a proximal prior.

    Cost: n proximal maps (a `DenoiserProx` makes 1 forward in each) and, unless A has a
    singular system, n (num_inner + 1) products with A^T A; n with A for the misfit. No
    derivative of a network.

    Args:
        num_steps: n; 8 to 24 published for networks.
        penalty: p of the first iteration, (); the default is a level of 3, because
            the published ones near 0.5 do not fill large gaps (see `ADMM`).
        final_penalty: of the last one; the default is a level of 0.02.
        num_inner: conjugate gradients in each iteration, if A has no singular system.
    """

    requires: ClassVar[tuple[type, type]] = (LinearOperator, ProximalPrior)
    requires_noise: ClassVar[type] = WhiteNoise
    cost_formula: ClassVar[str] = "n prox"
    reference: ClassVar[str] = (
        "Zhang et al., Plug-and-Play Image Restoration with Deep Denoiser Prior, "
        "TPAMI 2021"
    )

    num_steps: int = static(default=40)
    penalty: Any = penalty_of_level(3.0)
    final_penalty: Any = penalty_of_level(0.02)
    num_inner: int = static(default=20)

    @classmethod
    def red_fixed_point(
        cls, strength: float, *, num_steps: int = 50, num_inner: int = 20
    ) -> "HQS":
        """Return the fixed-point iteration of RED.

        (A^T A / s_y^2 + l) x' = A^T y / s_y^2 + l D(x) is this algorithm at a constant
        penalty l = `strength`. The prior gives the denoiser's level: a `DenoiserProx`
        of weight l s^2 denoises at s.
        """
        return cls(
            num_steps=num_steps,
            penalty=strength,
            final_penalty=None,
            num_inner=num_inner,
        )

    def start(self, key: jax.Array, problem: Problem, prior: ProximalPrior) -> Any:
        x = grey(problem)
        return x, x

    def step(
        self, carry: Any, x: Any, problem: Problem, prior: ProximalPrior
    ) -> tuple[Any, StepTrace]:
        (_, v), (penalty, _) = carry, x
        state = fit(problem, IDENTITY, penalty, v, v, self.num_inner)
        moved = prior.prox(state, 1 / penalty)
        trace = StepTrace(misfit=problem.misfit(state), calls=prior.prox_calls())
        return (state, moved), trace

    def finalize(self, carry: Any, problem: Problem, prior: ProximalPrior) -> jax.Array:
        return carry[0]
