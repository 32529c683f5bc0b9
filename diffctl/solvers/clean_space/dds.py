"""Decomposed diffusion sampling: a few conjugate-gradient steps on the clean image.

At level sigma with the estimate D, and the next level sigma':

1. u  = argmin_u |y - A u|^2 + penalty |u - D|^2, by K steps of CG started at D
2. x' = u + sigma' (sqrt(1 - eta^2) (x - D) / sigma + eta z)
"""

from typing import Any, ClassVar

import jax

from diffctl.core import DiffusionPrior
from diffctl.diffusion import Bound, Estimate, NoiseLevel, Renoise, unbounded
from diffctl.numerics.krylov import least_squares_cg
from diffctl.operators.base import LinearOperator, Problem, WhiteNoise
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.clean_space.corrections import CorrectionSolver
from diffctl.solvers.clean_space.penalties import ConstantPenalty
from diffctl.solvers.ddnm import released_grid
from diffctl.solvers.levels import Levels
from diffctl.solvers.requirements import linear, noise_std


@pytree_dataclass
class DDS(CorrectionSolver):
    """Decomposed Diffusion Sampling (Chung, Lee and Ye, ICLR 2024).

        u  = D + K steps of CG for (A^H A + penalty I) d = A^H (y - A D)
        x' = u + sigma' (sqrt(1 - eta^2) (x - D) / sigma + eta z)

    The corrections lie in the Krylov space of A^H (y - A D), so that components in the
    null space of A stay those of the estimate. With penalty 0 early stopping is all the
    regularisation there is, and K large is the projection of `DDNM`.

    Requirements: a linear operator, real or complex, and white noise.

    Cost: T forwards for T levels of `grid`, no derivative of the network; per step
    K + 1 products with A and with A^H, and one with A.

    Deviations: the paper's constant penalty 1 / gamma (`released_code`) applies the
    whole measurement at each of the 50 levels, so that the result follows the data
    alone: not a sampler. By default the penalty is Bayes' rule, which trusts the
    estimate more as the noise falls; the mean for an isotropic Gaussian prior is then
    that of the posterior if eta = 1.
    The released code stops adding noise one level early; its CG is not that of complex
    operators (it leaves out the conjugate), its CT back-projection not the adjoint. Its
    total variation between slices of a volume is left out.

    Args: see `CorrectionSolver`, and
        eta: share of fresh noise, in [0, 1]. Not the eta of DDIM: 1 re-noises fully.
        num_inner: K, at least 1.
    """

    requires: ClassVar[tuple[type, type]] = (LinearOperator, DiffusionPrior)
    requires_noise: ClassVar[type] = WhiteNoise
    cost_formula: ClassVar[str] = "T fwd"
    reference: ClassVar[str] = (
        "Chung et al., Decomposed Diffusion Sampler for Accelerating Large-Scale "
        "Inverse Problems, ICLR 2024"
    )

    bound: Bound = static(default=unbounded)
    eta: Any = 0.85
    num_inner: int = static(default=5)

    @classmethod
    def released_code(cls, *, num_steps: int = 50) -> "DDS":
        """Return the released settings: indices 980, 960, ..., 0 and gamma = 1."""
        return cls(grid=released_grid(num_steps), penalty=ConstantPenalty(value=1.0))

    @classmethod
    def noiseless(cls, *, num_steps: int = 50) -> "DDS":
        """Return the released settings for noise-free measurements: penalty 0."""
        return cls(grid=released_grid(num_steps), penalty=ConstantPenalty(value=0.0))

    def correct(
        self, key: jax.Array, problem: Problem, x0_hat: jax.Array, now: NoiseLevel
    ) -> jax.Array:
        operator = linear(problem)
        # CG for the change from zero is CG for u from the estimate.
        residual = problem.residual(x0_hat)
        change = least_squares_cg(
            operator,
            operator.adjoint,
            residual,
            num_steps=self.num_inner,
            damping=self.penalty(now.sigma, noise_std(problem)),
        )
        return x0_hat + change

    def renoise(
        self,
        x: jax.Array,
        x0_hat: jax.Array,
        corrected: jax.Array,
        levels: Levels,
        noise: jax.Array,
    ) -> jax.Array:
        estimate = Estimate(x0_hat=x0_hat)
        free = Renoise(eta=self.eta).advance(x, estimate, *levels, noise)
        return free + (corrected - x0_hat)
