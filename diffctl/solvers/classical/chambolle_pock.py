"""The primal-dual algorithm of Chambolle and Pock.

For f(x) + F(K x) + G(x), with duals p of the measurement and q of K x:

1. tau = step_size s_y^2 / |A|^2,  sigma = c / (2 tau |A|^2),  rho = c / (2 tau |K|^2)
2. p <- (p + sigma (A x_bar - y)) / (1 + sigma s_y^2)
3. q <- w - rho prox_{F / rho}(w / rho),   w = q + rho K x_bar
4. x' = prox_{tau G}(x - tau (A^T p + K^T q))
5. x_bar = 2 x' - x
"""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from diffctl.core import ProximalPrior, StepTrace
from diffctl.operators.base import LinearOperator, Problem, WhiteNoise
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.classical.data_term import grey, squared_norm_of
from diffctl.solvers.iterations import IterativeSolver
from diffctl.solvers.requirements import linear, noise_std

_SAFETY = 0.98  # c: the norm of A is an estimate, from below
Constraint = Callable[[jax.Array], jax.Array]


def unconstrained(x: jax.Array) -> jax.Array:
    """Allow every signal: G = 0."""
    return x


def in_unit_range(x: jax.Array) -> jax.Array:
    """Keep signals in [-1, 1]: G is 0 inside and infinite outside."""
    return jnp.clip(x, -1, 1)


@pytree_dataclass
class ChambollePock(IterativeSolver):
    """Primal-dual hybrid gradients (Chambolle and Pock, 2011) for f(x) + R(x).

    f(x) = |A x - y|^2 / (2 s_y^2), R(x) = F(K x). Both terms are dualised, so that no
    linear system is solved; converges for every convex R.

    Requirements: a linear operator, white noise, a proximal prior.

    Cost: n proximal maps (a `DenoiserProx` makes 1 forward in each), n products with
    A^T, K and K^T and 2 n with A, half of them for the misfit; 72 with A^T A at the
    start if A has no singular system.

    Deviations: the dual step comes first, as in the paper; lanl/scico starts by the
    primal one. The fixed points are the same. Not accelerated: neither term need be
    strongly convex.

    Args:
        num_steps: n.
        step_size: of the signal, relative to s_y^2 / |A|^2, > 0; it changes the speed,
            not the solution.
        constraint: projection onto the allowed signals, `unconstrained` or
            `in_unit_range`.
    """

    requires: ClassVar[tuple[type, type]] = (LinearOperator, ProximalPrior)
    requires_noise: ClassVar[type] = WhiteNoise
    cost_formula: ClassVar[str] = "n prox"
    reference: ClassVar[str] = (
        "Chambolle and Pock, A First-Order Primal-Dual Algorithm for Convex Problems "
        "with Applications to Imaging, JMIV 2011"
    )

    num_steps: int = static(default=500)
    step_size: Any = 1.0
    constraint: Constraint = static(default=unconstrained)

    def start(self, key: jax.Array, problem: Problem, prior: ProximalPrior) -> Any:
        x = grey(problem)
        squared = squared_norm_of(key, linear(problem), x)
        variance = jnp.asarray(noise_std(problem) ** 2, x.dtype)
        size = self.step_size * variance / squared
        on_data = _SAFETY / (2 * size * squared)
        on_prior = _SAFETY / (2 * size * prior.analysis_norm() ** 2)
        duals = linear(problem)(x), prior.analysis(x)
        return x, x, duals, (size, on_data, on_prior)

    def step(
        self, carry: Any, x: Any, problem: Problem, prior: ProximalPrior
    ) -> tuple[Any, StepTrace]:
        state, ahead, (p, q), sizes = carry
        tau, sigma, rho = sizes
        operator = linear(problem)
        damping = 1 + sigma * jnp.asarray(noise_std(problem) ** 2, state.dtype)
        p = jax.tree.map(
            lambda p, clean, y: (p + sigma * (clean - y)) / damping,
            p,
            operator(ahead),
            problem.y,
        )
        w = q + rho * prior.analysis(ahead)
        q = w - rho * prior.analysis_prox(w / rho, 1 / rho)
        slope = operator.adjoint(p) + prior.analysis_adjoint(q)
        moved = self.constraint(state - tau * slope)
        trace = StepTrace(misfit=problem.misfit(moved), calls=prior.prox_calls())
        return (moved, 2 * moved - state, (p, q), sizes), trace

    def finalize(self, carry: Any, problem: Problem, prior: ProximalPrior) -> jax.Array:
        return carry[0]
