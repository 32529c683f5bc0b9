"""Alternating direction method of multipliers; plug-and-play with a denoiser.

For R(x) = F(K x), with the penalty p of the iteration:

1. x <- argmin_x f(x) + p / 2 |K x - v + u|^2       CG from the last x, or (K = I) the
                                                    singular system if A has one
2. v <- argmin_v F(v) + p / 2 |v - K x - u|^2       the prior's proximal map
3. u <- u + K x - v,   then scaled by p / p_next
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from diffctl.core import ProximalPrior, StepTrace
from diffctl.numerics.safe import safe_norm
from diffctl.operators.base import LinearOperator, Problem, WhiteNoise
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.classical.data_term import analysis_of, fit, grey
from diffctl.solvers.classical.penalties import PenaltySolver, penalty_of_level


@pytree_dataclass
class ADMM(PenaltySolver):
    """ADMM for f(x) + R(x), f(x) = |A x - y|^2 / (2 s_y^2). The prior decides.

    With `TotalVariation` it is ADMM-TV, whose split is by the differences of the
    image; with `Sparsity`, ADMM for wavelets; with `DenoiserProx` or `NonLocalMeans`,
    plug-and-play ADMM, whose fixed point for a Gaussian prior of weight 1 is the exact
    posterior mean for every penalty.

    Requirements: a linear operator, white noise, a proximal prior. Convergence is
    proved for convex R and a constant penalty; a network may need `DenoiserProx.damped`
    or the rising penalty of `plug_and_play`.

    Cost: n proximal maps (a `DenoiserProx` makes 1 forward in each) and n
    (num_inner + 1) products with A^T A and K^T K, or for K = I and an A with a singular
    system, n with (A^T A + s_y^2 p)^{-1}; n with A for the misfit. No derivative of a
    network.

    `StepTrace.extra` holds the `primal_residual` |K x - v| and the `dual_residual`
    p |K^T (v - v_previous)|; both vanish at the solution.

    Deviations: the number of iterations is fixed; there is no residual balancing.

    Args:
        num_steps: n.
        penalty: p, (); it changes the speed, not the solution.
        final_penalty: see `PenaltySolver`.
        num_inner: conjugate gradients in each iteration, where they are needed.
    """

    requires: ClassVar[tuple[type, type]] = (LinearOperator, ProximalPrior)
    requires_noise: ClassVar[type] = WhiteNoise
    cost_formula: ClassVar[str] = "n prox"
    reference: ClassVar[str] = (
        "Boyd et al., Distributed Optimization via ADMM, 2011; Venkatakrishnan et al., "
        "Plug-and-Play Priors for Model Based Reconstruction, GlobalSIP 2013"
    )

    num_inner: int = static(default=10)

    @classmethod
    def plug_and_play(cls, *, num_steps: int = 40, num_inner: int = 20) -> "ADMM":
        """Return settings for a network of weight 1: levels from 3 down to 0.02.

        Published ones start near 0.5, too low for large gaps: digits of which 92 % are
        missing are then restored to 7 dB instead of 21 dB, and blur costs nothing.
        """
        return cls(
            num_steps=num_steps,
            penalty=penalty_of_level(3.0),
            final_penalty=penalty_of_level(0.02),
            num_inner=num_inner,
        )

    def start(self, key: jax.Array, problem: Problem, prior: ProximalPrior) -> Any:
        x = grey(problem)
        v = prior.analysis(x)
        return x, v, jnp.zeros_like(v)

    def step(
        self, carry: Any, x: Any, problem: Problem, prior: ProximalPrior
    ) -> tuple[Any, StepTrace]:
        (state, v, u), (penalty, next_penalty) = carry, x
        split = analysis_of(prior)
        state = fit(problem, split, penalty, v - u, state, self.num_inner)
        seen = prior.analysis(state)
        moved = prior.analysis_prox(seen + u, 1 / penalty)
        primal, dual = seen - moved, prior.analysis_adjoint(moved - v)
        trace = StepTrace(
            misfit=problem.misfit(state),
            calls=prior.prox_calls(),
            extra={
                "primal_residual": safe_norm(primal),
                "dual_residual": penalty * safe_norm(dual),
            },
        )
        return (state, moved, (u + primal) * penalty / next_penalty), trace

    def finalize(self, carry: Any, problem: Problem, prior: ProximalPrior) -> jax.Array:
        return carry[0]
