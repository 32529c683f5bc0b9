"""Proximal gradient descent, plain (ISTA, PnP-PGM) and accelerated (FISTA, PnP-FISTA).

1. size  = step_size s_y^2 / |A|^2
2. x'    = argmin_z size R(z) + |z - (v - size grad f(v))|^2 / 2
3. ISTA    v = x'
   FISTA   t' = (1 + sqrt(1 + 4 t^2)) / 2,   v = x' + (t - 1) / t' (x' - x),
           from t = 1
"""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from diffctl.core import ProximalPrior, StepTrace
from diffctl.numerics.momentum import is_uphill, momentum
from diffctl.operators.base import LinearOperator, Problem, WhiteNoise
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.classical.data_term import curvature, gradient, grey
from diffctl.solvers.iterations import IterativeSolver

# (v, x', x) -> whether the momentum is dropped, ().
Restart = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def never(v: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """Keep the momentum, as in the paper of FISTA."""
    return jnp.zeros((), bool)


@pytree_dataclass
class ISTA(IterativeSolver):
    """Iterative shrinkage and thresholding for f(x) + R(x).

    f(x) = |A x - y|^2 / (2 s_y^2). With `Sparsity` it is ISTA, with `NuclearNorm` on a
    mask it is soft-impute, with `DenoiserProx` it is PnP-PGM: the denoiser's level is
    sqrt(weight * size), and with weight 1 the fixed point for a Gaussian prior is the
    exact posterior mean for every size.

    Requirements: a linear operator, white noise, a proximal prior.

    Cost: n proximal maps (a `DenoiserProx` makes 1 forward in each), n products with
    A^T A and, for the misfit, A; 72 with A^T A at the start for the norm of A if it has
    no singular system.
    The energy falls as 1 / n.

    Args:
        num_steps: n.
        step_size: relative to s_y^2 / |A|^2, in (0, 2); a little below 1 allows for the
            error of the norm.
    """

    requires: ClassVar[tuple[type, type]] = (LinearOperator, ProximalPrior)
    requires_noise: ClassVar[type] = WhiteNoise
    cost_formula: ClassVar[str] = "n prox"
    reference: ClassVar[str] = (
        "Daubechies et al., An Iterative Thresholding Algorithm for Linear Inverse "
        "Problems with a Sparsity Constraint, CPAM 2004"
    )

    num_steps: int = static(default=500)
    step_size: Any = 0.98

    def start(self, key: jax.Array, problem: Problem, prior: ProximalPrior) -> Any:
        x = grey(problem)
        return x, self.step_size / curvature(key, problem, x)

    def step(
        self, carry: Any, x: Any, problem: Problem, prior: ProximalPrior
    ) -> tuple[Any, StepTrace]:
        state, size = carry
        moved, trace = descend(state, size, problem, prior)
        return (moved, size), trace

    def finalize(self, carry: Any, problem: Problem, prior: ProximalPrior) -> jax.Array:
        return carry[0]


@pytree_dataclass
class FISTA(ISTA):
    """ISTA with Nesterov's momentum (Beck and Teboulle, 2009).

    The energy exceeds its minimum by 2 |x_0 - x*|^2 / (size (k + 1)^2) at most after k
    steps. Requirements and cost are those of `ISTA`; `step_size` must not exceed 1.

    Args:
        restart: when the momentum is dropped: `is_uphill`, or `never` as in the paper.
    """

    reference: ClassVar[str] = (
        "Beck and Teboulle, A Fast Iterative Shrinkage-Thresholding Algorithm for "
        "Linear Inverse Problems, SIAM J. Imaging Sciences 2009"
    )

    restart: Restart = static(default=is_uphill)

    def start(self, key: jax.Array, problem: Problem, prior: ProximalPrior) -> Any:
        x, size = super().start(key, problem, prior)
        return x, size, x, jnp.ones_like(size)

    def step(
        self, carry: Any, x: Any, problem: Problem, prior: ProximalPrior
    ) -> tuple[Any, StepTrace]:
        state, size, v, t = carry
        moved, trace = descend(v, size, problem, prior)
        t = jnp.where(self.restart(v, moved, state), 1, t)
        weight, t = momentum(t)
        return (moved, size, moved + weight * (moved - state), t), trace


def descend(
    v: jax.Array, size: jax.Array, problem: Problem, prior: ProximalPrior
) -> tuple[jax.Array, StepTrace]:
    """Return x' by (2), (*shape), and what it cost."""
    moved = prior.prox(v - size * gradient(problem, v), size)
    return moved, StepTrace(misfit=problem.misfit(moved), calls=prior.prox_calls())
