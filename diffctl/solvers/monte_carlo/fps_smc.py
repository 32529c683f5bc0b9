"""FPS-SMC: particles follow a noisy path of the measurement that is drawn beforehand.

The factors of `observed.py`, with y_i and e_i as there, at the level s:

    known path      b_i: a path that ends in y_i, v_i = 0, active where s >= e_i
    renoised path   b_i: a path that ends in y_i, v_i = e_i^2, active everywhere
"""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from diffctl.diffusion import Estimate, NoiseGrid, Renoise, ddpm
from diffctl.numerics.normal import standard_normal
from diffctl.numerics.safe import safe_sqrt
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.monte_carlo.accounting import Accounting, Filter, KnownPath
from diffctl.solvers.monte_carlo.observation import Observation, noisier_than_data
from diffctl.solvers.monte_carlo.observed import ObservedParticles
from diffctl.solvers.monte_carlo.resampling import ResampleAlways
from diffctl.solvers.spectral import SpectralData

PAPER_ETA = 0.85

Path = Callable[[jax.Array, NoiseGrid, SpectralData], Observation]


def known_path(key: jax.Array, grid: NoiseGrid, data: SpectralData) -> Observation:
    """Return a path that the noisy signal itself takes in the measured directions.

    It starts from y_i at the level e_i, where y_i is the noisy signal, and is drawn
    upwards: b = y_i + noise of variance s^2 - e_i^2, with independent increments.
    """
    sigma, std = grid.sigma[:, None], data.std[None, :]
    variance = jnp.maximum((sigma - std) * (sigma + std), 0)
    gaps = variance - jnp.append(variance[1:], jnp.zeros_like(variance[:1]), axis=0)
    increments = safe_sqrt(gaps) * standard_normal(key, variance)
    path = data.y[None, :] + jnp.cumsum(increments[::-1], axis=0)[::-1]
    return Observation(
        centre=path,
        variance=jnp.zeros_like(path),
        active=noisier_than_data(grid, data),
    )


def renoised_path(key: jax.Array, grid: NoiseGrid, data: SpectralData) -> Observation:
    """Return the path of the paper, with eta = 0.85: a noisy measurement per level.

    b' = y_i + sqrt(1 - eta^2) s'/s (b - y_i) + eta s' n from b = y_i + s_T n, each with
    the variance e_i^2.
    """
    noise = jax.random.normal(key, (grid.sigma.size, data.y.size), data.y.dtype)
    reverse = Renoise(eta=PAPER_ETA)

    def follow(y: jax.Array, at: Any) -> tuple[jax.Array, jax.Array]:
        y = reverse.advance(y, Estimate(x0_hat=data.y), *at)
        return y, y

    first = data.y + grid.sigma[0] * noise[0]
    _, path = jax.lax.scan(follow, first, (*grid.pairs(), noise[1:]))
    path = jnp.concatenate([first[None], path])
    return Observation(
        centre=path,
        variance=jnp.broadcast_to(data.std[None, :] ** 2, path.shape),
        active=data.measured[None, :] & (grid.sigma[:, None] > 0),
    )


@pytree_dataclass
class FPSSMC(ObservedParticles):
    """Filtering posterior sampling (Dou & Song, ICLR 2024), on a path that is known.

    A noisy path of the measurement is drawn beforehand; particles follow it.

    Requirements: a spectral operator and white noise.

    Cost: N T forwards for N particles and T levels; no derivative of the network.

    Deviations: the paper's path (`paper`) stands for T + 1 independent measurements,
    each with the noise of the one: the posterior is far too narrow, whatever N. By
    default the path is one of the noisy signal itself, above the level e_i at which y_i
    is a noisy signal, and directions are free below. Particles of one key belong to one
    path; over keys they are exact as N grows and steps shrink. devzhk/InverseBench
    combines with the observation of the level before, and clips where it has no effect;
    this does neither.

    Args: see `ParticleSolver` and `ObservedParticles`, and
        path: the factors, drawn from a key.
    """

    reference: ClassVar[str] = (
        "Dou & Song, Diffusion Posterior Sampling for Linear Inverse Problem Solving: "
        "A Filtering Perspective, ICLR 2024"
    )

    accounting: Accounting = KnownPath()
    path: Path = static(default=known_path)

    @classmethod
    def default(cls, *, num_steps: int = 100, num_particles: int = 20) -> "FPSSMC":
        """Return settings for images in [-1, 1] on exact DDPM levels."""
        return cls(grid=ddpm(num_steps), num_particles=num_particles)

    @classmethod
    def paper(cls, *, num_steps: int = 100, num_particles: int = 20) -> "FPSSMC":
        """Return the filter of the paper: eta = 0.85, multinomial resampling."""
        return cls(
            grid=ddpm(num_steps),
            num_particles=num_particles,
            reverse=Renoise(eta=PAPER_ETA),
            resampling=ResampleAlways(),
            accounting=Filter(),
            path=renoised_path,
        )

    def observations(self, key: jax.Array, data: SpectralData) -> Observation:
        return self.path(key, self.grid, data)
