"""DiffPIR: half-quadratic splitting with a diffusion denoiser.

At level sigma with the bounded estimate D, and the next level sigma':

1. u   = argmin_u |y - A u|^2 + rho |u - D|^2,   rho = strength s_y^2 / r^2
2. e   = (x - u) / sigma, the noise that u leaves
3. x'  = u + sigma' (sqrt(1 - zeta) e + sqrt(zeta) z)
"""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.core import DiffusionPrior
from diffctl.diffusion import (
    DDPM,
    Estimate,
    NoiseGrid,
    NoiseLevel,
    Renoise,
    unbounded,
)
from diffctl.numerics.safe import safe_sqrt
from diffctl.operators.base import LinearOperator, Problem, WhiteNoise
from diffctl.pytree import pytree_dataclass
from diffctl.solvers.clean_space.corrections import CorrectionSolver
from diffctl.solvers.clean_space.penalties import BayesianPenalty
from diffctl.solvers.data_steps import towards_data, towards_noisy_data
from diffctl.solvers.ddnm import released_grid
from diffctl.solvers.levels import Levels
from diffctl.solvers.requirements import noise_std
from diffctl.solvers.tasks import for_task

# Levels, lambda in the unit of the code, and zeta.
_RELEASED: Mapping[str, tuple[int, float, float]] = {
    "gaussian_deblurring": (100, 7.0, 0.3),
    "motion_deblurring": (100, 7.0, 0.3),
    "super_resolution_x4": (100, 7.0, 0.25),
    "random_inpainting": (20, 1.0, 1.0),
    "box_inpainting": (20, 1.0, 1.0),
}


def quadratic_grid(num_steps: int = 100) -> NoiseGrid:
    """Return DiffPIR's levels of the linear DDPM schedule: big jumps at high noise.

    Of 1000 indices 999 - floor(1000 sqrt(k / (T - 1))) for k < T, the last one 0.

    Raises:
        ValueError: fewer than 2 steps, or so many that an index repeats.
    """
    if num_steps < 2:
        raise ValueError(f"num_steps is {num_steps}; expected at least 2.")
    fraction = np.arange(num_steps) / (num_steps - 1)
    indices = 999 - np.minimum(np.floor(1000 * np.sqrt(fraction)), 999)
    if np.any(np.diff(indices) >= 0):
        raise ValueError(
            f"num_steps is {num_steps}: two of that many levels of 1000 coincide. Take "
            "500 or fewer."
        )
    return NoiseGrid.from_times(indices, DDPM.linear())


def inverse_bench_fields(strength: float, num_steps: int) -> dict[str, Any]:
    """Return what the two forms of DiffPIR in devzhk/InverseBench share.

    Its rho has the variance sigma^2 / (1 + sigma^2) of the noise in variance-preserving
    coordinates in place of sigma^2, which is that of an estimate if the signal has unit
    variance. Estimates are not clipped and the state is noised anew at every level. Its
    s_y is fixed to 0.05; ours is that of the problem.
    """
    return {
        "grid": released_grid(num_steps),
        "penalty": BayesianPenalty(strength=strength, signal_std=1.0),
        "zeta": 1.0,
        "bound": unbounded,
    }


class Correction(abc.ABC):
    """Step (1) for a linear operator."""

    @abc.abstractmethod
    def __call__(
        self, problem: Problem, x0_hat: jax.Array, penalty: jax.Array
    ) -> jax.Array:
        """Return u, (*shape)."""


@pytree_dataclass
class Proximal(Correction):
    """The minimiser itself: through the singular system, or else by 100 CG steps."""

    def __call__(
        self, problem: Problem, x0_hat: jax.Array, penalty: jax.Array
    ) -> jax.Array:
        return x0_hat + towards_noisy_data(problem, x0_hat, penalty)


@pytree_dataclass
class BackProjection(Correction):
    """u = D + step_size A^+ (y - A D), whatever the penalty.

    The code's variant for bicubic super-resolution; it resizes where this has A^+.
    """

    step_size: Any = 0.01

    def __call__(
        self, problem: Problem, x0_hat: jax.Array, penalty: jax.Array
    ) -> jax.Array:
        return x0_hat + self.step_size * towards_data(problem, x0_hat)


class Ending(abc.ABC):
    """What becomes of the last level, and which image is returned."""

    @abc.abstractmethod
    def last(self, x: jax.Array, moved: jax.Array) -> jax.Array:
        """Return the state after the step to the clean level."""

    @abc.abstractmethod
    def result(self, x: jax.Array, last: NoiseLevel) -> jax.Array:
        """Return the image made of the final state; `last` is the last noisy level."""


@pytree_dataclass
class CorrectedEstimate(Ending):
    """Return u of the last level."""

    def last(self, x: jax.Array, moved: jax.Array) -> jax.Array:
        return moved

    def result(self, x: jax.Array, last: NoiseLevel) -> jax.Array:
        return x


@pytree_dataclass
class NoisyState(Ending):
    """Return the state at the last noisy level, in variance-preserving coordinates.

    The released code does. The image still carries noise of the last level (0.01), and
    the last network call has no effect.
    """

    def last(self, x: jax.Array, moved: jax.Array) -> jax.Array:
        return x

    def result(self, x: jax.Array, last: NoiseLevel) -> jax.Array:
        return last.scale * x


@pytree_dataclass
class HalfQuadraticSplitting(CorrectionSolver):
    """Steps (2) and (3) of DiffPIR; subclasses say how (1) is solved.

    Args: see `CorrectionSolver`, and
        zeta: share of the next level's noise variance that is fresh, in [0, 1].
        ending: what is returned.
    """

    cost_formula: ClassVar[str] = "T fwd"
    reference: ClassVar[str] = (
        "Zhu et al., Denoising Diffusion Models for Plug-and-Play Image Restoration, "
        "CVPR Workshops 2023"
    )

    zeta: Any = 0.3
    ending: Ending = CorrectedEstimate()

    def renoise(
        self,
        x: jax.Array,
        x0_hat: jax.Array,
        corrected: jax.Array,
        levels: Levels,
        noise: jax.Array,
    ) -> jax.Array:
        estimate = Estimate(x0_hat=corrected)
        eta = safe_sqrt(self.zeta)
        moved = Renoise(eta=eta).advance(x, estimate, *levels, noise)
        return jnp.where(levels[1].sigma > 0, moved, self.ending.last(x, moved))

    def finalize(
        self, carry: jax.Array, problem: Problem, prior: DiffusionPrior
    ) -> jax.Array:
        last = jax.tree.map(lambda leaf: leaf[-1], self.grid.pairs()[0])
        return self.ending.result(carry, last)


@pytree_dataclass
class DiffPIR(HalfQuadraticSplitting):
    """Denoising diffusion models for plug-and-play restoration (Zhu et al., 2023).

        u  = argmin_u |y - A u|^2 + rho |u - D|^2
        x' = u + sigma' (sqrt(1 - zeta) (x - u) / sigma + sqrt(zeta) z)

    Requirements: a linear operator and white noise. In closed form for spectral
    operators (periodic blurs, masks, block averages, separable down-sampling, Fourier
    samples); others, such as a blur of which every fourth pixel is kept, take 100
    products with A^H A a step.

    Cost: T forwards for T levels of `grid`; no derivative of the network.

    Deviations: the paper has rho = lambda s_y^2 / sigma^2 with a tuned lambda; by
    default the variance r^2 of the estimate takes the place of sigma^2, and lambda is
    1. For an isotropic Gaussian prior of that standard deviation u is then the exact
    conditional mean, and the mean of the posterior is reached. The last estimate is
    returned, not the state with its noise (`NoisyState`). The start is N(0, I); that of
    the code is an up-sampled measurement, a difference of y / sigma_max.

    Args: see `HalfQuadraticSplitting`, and
        correction: how (1) is solved.
    """

    requires: ClassVar[tuple[type, type]] = (LinearOperator, DiffusionPrior)
    requires_noise: ClassVar[type] = WhiteNoise

    correction: Correction = Proximal()

    @classmethod
    def released_code(cls, task: str) -> "DiffPIR":
        """Return the settings with which the authors' code runs a task.

        The code has data in [0, 1] but sigma on [-1, 1], so that its lambda of 7 is 7/4
        here. Its noise level is at least 0.001 on [0, 1]; ours is that of the problem.
        For super-resolution the code sweeps lambda from 2 to 12; 7 is the middle.
        """
        num_steps, strength, zeta = for_task(_RELEASED, task)
        return cls(
            grid=quadratic_grid(num_steps),
            penalty=BayesianPenalty(strength=strength / 4, signal_std=jnp.inf),
            zeta=zeta,
            ending=NoisyState(),
        )

    @classmethod
    def deepinv(cls, *, num_steps: int = 100) -> "DiffPIR":
        """Return the defaults of deepinv/deepinv.

        Its proximal map has the data in [0, 1], as the authors' code, and half their
        weight of the data: lambda = 7 is 7/2 here.
        """
        return cls(
            grid=quadratic_grid(num_steps),
            penalty=BayesianPenalty(strength=7 / 2, signal_std=jnp.inf),
            zeta=0.1,
            ending=NoisyState(),
        )

    @classmethod
    def inverse_bench(cls, *, num_steps: int = 1000) -> "DiffPIR":
        """Return the settings of devzhk/InverseBench for a singular system.

        Of its objective |y - A u|^2 + rho |u - D|^2, rho is twice that of its first
        order step: lambda = 8 is 16 here.
        """
        return cls(**inverse_bench_fields(16.0, num_steps))

    def correct(
        self, key: jax.Array, problem: Problem, x0_hat: jax.Array, now: NoiseLevel
    ) -> jax.Array:
        penalty = self.penalty(now.sigma, noise_std(problem))
        return self.correction(problem, x0_hat, penalty)
