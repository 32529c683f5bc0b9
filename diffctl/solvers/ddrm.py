"""Denoising Diffusion Restoration Models.

With A = U diag(s) V^T, y_i = (U^T y)_i / s_i, and levels sigma -> sigma'

0. start   x_i = y_i + sqrt(sigma^2 - s_y^2 / s_i^2) z_i  if sigma > s_y / s_i,
               = sigma z_i                                otherwise
1. step    by directions, see `spectral`: data and fresh noise where the measurement is
           cleaner than sigma', prediction and some data where it is noisier
"""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from diffctl.core import Calls, DiffusionPrior, StepTrace
from diffctl.diffusion import DDPM, NoiseGrid, ddim_timesteps
from diffctl.numerics.normal import standard_normal
from diffctl.numerics.safe import root_of_difference
from diffctl.operators.base import Problem, SpectralOperator, WhiteNoise
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.data_steps import towards_data
from diffctl.solvers.levels import LevelSolver
from diffctl.solvers.requirements import noise_std, spectral
from diffctl.solvers.spectral import SpectralData, spectral_step

Finish = Callable[[Problem, jax.Array], jax.Array]


def last_prediction(problem: Problem, x0_hat: jax.Array) -> jax.Array:
    """Return the last network prediction as it is."""
    return x0_hat


def consistent_prediction(problem: Problem, x0_hat: jax.Array) -> jax.Array:
    """Return the nearest signal that explains the measurement, x0 - A^+ (A x0 - y)."""
    return x0_hat + towards_data(problem, x0_hat)


@pytree_dataclass
class DDRM(LevelSolver):
    """Denoising Diffusion Restoration Models (Kawar et al., NeurIPS 2022).

    Per singular direction, D the denoiser's estimate, sigma' the next level:

        s_i = 0                 D_i + sigma' (sqrt(1 - eta^2) eps_i + eta z_i)
        sigma' < sigma_y / s_i  D_i + sigma' (sqrt(1 - eta^2) (y_i - D_i) s_i / sigma_y
                                              + eta z_i)
        otherwise               (1 - eta_b) D_i + eta_b y_i
                                + sqrt(sigma'^2 - eta_b^2 sigma_y^2 / s_i^2) z_i

    Requirements: a spectral operator and white noise of known standard deviation. Tiny
    singular values do no harm: their directions are left to the prior.

    Cost: T forwards for T levels of `grid`; no derivative of the network.

    The result is the last prediction of the network, which is not exactly consistent
    with noise-free measurements either; `finish=consistent_prediction` makes it so.

    Deviations: none from the paper. The released operators of its deblurring tasks
    assign singular values to the wrong colour channels (bahjat-kawar/ddrm); those of
    this package do not. That code's noise level counts on images in [0, 1].

    Args:
        grid: noise levels, T steps.
        eta: share of fresh noise, in [0, 1]. Not the eta of DDIM: 1 re-noises fully.
        eta_b: trust in measurements that are cleaner than the level, in [0, 1].
        finish: what is done with the last prediction.
    """

    requires: ClassVar[tuple[type, type]] = (SpectralOperator, DiffusionPrior)
    requires_noise: ClassVar[type] = WhiteNoise
    cost_formula: ClassVar[str] = "T fwd"
    reference: ClassVar[str] = (
        "Kawar et al., Denoising Diffusion Restoration Models, NeurIPS 2022"
    )

    eta: Any = 0.85
    eta_b: Any = 1.0
    finish: Finish = static(default=last_prediction)

    @classmethod
    def released_code(cls, *, num_steps: int = 20) -> "DDRM":
        """Return the released settings: every k-th of 1000 DDPM levels, from the first.

        Twenty steps start at index 950, sigma = 97. `num_steps` must have an integer
        stride.
        """
        timesteps = ddim_timesteps(1000, num_steps)
        return cls(grid=NoiseGrid.from_times(timesteps[::-1], DDPM.linear()))

    def start(
        self, noise: jax.Array, problem: Problem, prior: DiffusionPrior
    ) -> jax.Array:
        sigma = self.grid.sigma[0]
        return sigma * noise + spectral(problem).combined(
            _start_from_data, problem.y, (noise,), noise_std(problem), sigma
        )

    def step(
        self, carry: jax.Array, x: Any, problem: Problem, prior: DiffusionPrior
    ) -> tuple[jax.Array, StepTrace]:
        state, (now, next, key) = carry, x
        x0_hat = prior.denoise(state, now.sigma)
        noise = standard_normal(key, state)
        moved = spectral_step(
            problem, state, x0_hat, (now, next), noise, self.eta, self.eta_b
        )
        return moved, StepTrace(misfit=problem.misfit(x0_hat), calls=Calls(fwd=1))

    def finalize(
        self, carry: jax.Array, problem: Problem, prior: DiffusionPrior
    ) -> jax.Array:
        return self.finish(problem, carry)


def _start_from_data(
    s: jax.Array, coordinates: tuple[jax.Array, ...], std: Any, sigma: jax.Array
) -> jax.Array:
    """Return what (0) adds to the coordinates of sigma z, (k,)."""
    coefficients, z = coordinates
    data = SpectralData.at(s, coefficients, std)
    target = data.y + root_of_difference(sigma, data.std) * z
    return jnp.where(data.below(sigma), target - sigma * z, 0)
