"""C-PiGDM for noisy measurements as in mandt-lab/c-pigdm, for comparisons only.

The integrating factor of noise-free measurements, and its first order in sigma_y^2, in
coordinates x_vp = x / sqrt(1 + sigma^2) with b = log(1 + sigma^2) and sigma = sinh(u):

1. a   = exp(tilt t + (1 - w) b / 2)
2. c_i = w / 2 (a - 1) log(sigma^2 + 1e-6) sigma_y^2 / s_i^2,   A_i = a + c_i
3. x_vp,i' = (1 - c_i' / a') / a' * ((1 - tilt span) A_i x_vp,i
             + w int A_i tanh(u) / cosh(u) du y_i
             - int A_i (1 - w tanh(u)^2) du eps_i
             - w int A_i tanh(u)^2 / cosh(u) du g_i)

The drift is that of noise-free measurements, also in g, which is made of A^+ (y - A D).
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from diffctl.core import DiffusionPrior
from diffctl.diffusion import NoiseLevel
from diffctl.operators.base import Problem, SpectralOperator, WhiteNoise
from diffctl.pytree import pytree_dataclass
from diffctl.solvers.conjugate import (
    Coefficients,
    Parts,
    few_steps,
    nodes_between,
    unmeasured,
)
from diffctl.solvers.conjugate_pigdm import ConjugatePiGDM, by_directions
from diffctl.solvers.levels import Levels
from diffctl.solvers.spectral import SpectralData


@pytree_dataclass
class ExpandedConjugatePiGDM(ConjugatePiGDM):
    """C-PiGDM for noisy measurements as released, by an expansion in sigma_y^2: wrong.

    For comparison with published numbers only; `NoisyConjugatePiGDM` is the correct
    method. In direction i, with a' and c_i' at the next level and the terms of (3),

        x_vp,i' <- (1 - c_i' / a') / a' * ((1 - tilt span) A_i x_vp,i + ...)

    The first order of the integrating factor would have a for a - 1, and those of the
    other terms are missing, so that many steps do not converge to the flow of noisy
    measurements; directions of small singular values move the wrong way. Without noise
    it is `ConjugatePiGDM`.

    Requirements: a spectral operator and white noise of known standard deviation.

    Cost: T forwards and T VJPs for T levels of `grid`; memory of one VJP.

    Deviations: as for `ConjugatePiGDM`; for masks the released code starts from noise
    alone.

    Args: see `ConjugateGuidance`.
    """

    requires: ClassVar[tuple[type, type]] = (SpectralOperator, DiffusionPrior)
    requires_noise: ClassVar[type] = WhiteNoise

    guidance_scale: Any = 2.0

    @classmethod
    def released_code(cls, *, num_steps: int = 5) -> "ExpandedConjugatePiGDM":
        """Return the released settings of fourfold super-resolution, noise 0.1.

        The noise is 0.05 for images in [0, 1].
        """
        return cls(grid=few_steps(num_steps), guidance_scale=2.0, tilt=-0.15)

    def measured_change(
        self, problem: Problem, parts: Parts, levels: Levels
    ) -> jax.Array:
        return by_directions(self, problem, parts, levels)

    def by_direction(self, data: SpectralData, levels: Levels) -> Coefficients:
        free = self.coefficients(unmeasured, *levels)
        return jax.tree.map(
            lambda all, free: jnp.where(data.measured, all - free, 0),
            self.expanded(data.std**2, *levels),
            free,
        )

    def expanded(
        self, ratio: jax.Array, now: NoiseLevel, next: NoiseLevel
    ) -> Coefficients:
        """Return the weights of (3) in directions with sigma_y^2 / s_i^2 = `ratio`."""
        u, measure = nodes_between(jnp.arcsinh(next.sigma), jnp.arcsinh(now.sigma))
        tanh, w = jnp.tanh(u), self.guidance_scale
        a, first_order = self._factors(jnp.sinh(u), ratio[None])
        inside = (a + first_order) * measure
        on_y = w * jnp.sum(inside * tanh / jnp.cosh(u), 0)
        on_eps = -jnp.sum(inside * (1 - w * tanh**2), 0)
        on_g = -w * jnp.sum(inside * tanh**2 / jnp.cosh(u), 0)

        span = self.schedule.time(now.sigma) - self.schedule.time(next.sigma)
        a, first_order = self._factors(now.sigma, ratio)
        kept = (1 - self.tilt * span) * (a + first_order) / jnp.sqrt(1 + now.sigma**2)
        a, first_order = self._factors(next.sigma, ratio)
        back = jnp.sqrt(1 + next.sigma**2) * (1 - first_order / a) / a
        return Coefficients(
            on_x0=back * kept,
            on_y=back * on_y,
            on_eps=back * (kept * now.sigma + on_eps),
            on_g=back * on_g,
        )

    def _factors(
        self, sigma: jax.Array, ratio: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return a of (1) and c_i of (2)."""
        half, time = self.guidance_scale / 2, self.schedule.time(sigma)
        a = jnp.exp(self.tilt * time + (0.5 - half) * jnp.log1p(sigma**2))
        return a, half * (a - 1) * jnp.log(sigma**2 + 1e-6) * ratio
