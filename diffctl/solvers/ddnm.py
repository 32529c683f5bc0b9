"""The null-space family: DDNM, DDNM+ and DDNM+ without a singular system.

With D the denoiser's estimate at level sigma, eps_hat = (x - D) / sigma and the next
level sigma', the estimate is moved towards the data and noised again:

1. DDNM              D+ = D + A^+ (y - A D)
                     x' = D+ + sigma' (eta z + sqrt(1 - eta^2) eps_hat)
2. DDNM+             the same by singular directions, with the share of the correction
                     and the noise that the noise of y leaves room for: see `spectral`
3. simplified DDNM+  D+ = D + w A^+ (y - A D),  w = min(1, sigma' / sigma_y)
                     x' = D+ + sqrt(sigma'^2 - w^2 sigma_y^2) (eta z + ... eps_hat)

eps_hat belongs to D, not to D+. (2) is the step of DDRM with eta_b = 1.
"""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from diffctl.core import Calls, DiffusionPrior, StepTrace
from diffctl.diffusion import DDPM, Estimate, NoiseGrid, NoiseLevel, Renoise
from diffctl.numerics.normal import standard_normal
from diffctl.numerics.safe import root_of_difference, safe_divide, safe_sqrt
from diffctl.operators.base import (
    LinearOperator,
    Problem,
    SpectralOperator,
    WhiteNoise,
)
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.data_steps import RELEASED_CUTOFF, towards_data
from diffctl.solvers.levels import Levels, LevelSolver
from diffctl.solvers.requirements import noise_std
from diffctl.solvers.spectral import spectral_step
from diffctl.solvers.travel import TimeTravel, renoise_prediction

_REFERENCE = (
    "Wang et al., Zero-Shot Image Restoration Using Denoising Diffusion Null-Space "
    "Model, ICLR 2023"
)
Room = Callable[[jax.Array, Any], tuple[jax.Array, jax.Array]]


def released_grid(num_steps: int = 100) -> NoiseGrid:
    """Return the levels of the released code: of 1000, every k-th index from 0 on.

    Raises:
        ValueError: `num_steps` does not divide 1000.
    """
    if num_steps < 1 or 1000 % num_steps:
        raise ValueError(f"num_steps is {num_steps}; expected a divisor of 1000.")
    stride = 1000 // num_steps
    return NoiseGrid.from_times(range(1000 - stride, -1, -stride), DDPM.linear())


@pytree_dataclass
class NullSpaceSolver(LevelSolver):
    """Estimate, move towards the data, noise again; and travel in time.

    Subclasses say how a step is made from the estimate.

    Args:
        grid: noise levels, T steps.
        eta: share of fresh noise, in [0, 1]. Not the eta of DDIM: 1 re-noises fully.
        travel: journeys back to noisier levels; none by default.
    """

    cost_formula: ClassVar[str] = "T fwd (with time travel about T repeat)"
    reference: ClassVar[str] = _REFERENCE

    eta: Any = 0.85
    travel: TimeTravel = TimeTravel()

    @abc.abstractmethod
    def move(
        self,
        problem: Problem,
        x: jax.Array,
        x0_hat: jax.Array,
        levels: Levels,
        noise: jax.Array,
    ) -> jax.Array:
        """Return the state at `levels[1]`, given the estimate at `levels[0]`."""

    def levels(self) -> tuple[NoiseLevel, ...]:
        return self.travel.journey(self.grid)

    def step(
        self, carry: jax.Array, x: Any, problem: Problem, prior: DiffusionPrior
    ) -> tuple[jax.Array, StepTrace]:
        state, (now, next, after, key) = carry, x
        key, travel_key = jax.random.split(key)
        x0_hat = prior.denoise(state, now.sigma)
        noise = standard_normal(key, state)
        moved = self.move(problem, state, x0_hat, (now, next), noise)
        again = standard_normal(travel_key, state)
        travelled = self.travel.diffuse(moved, x0_hat, (next, after), again)
        return travelled, StepTrace(misfit=problem.misfit(x0_hat), calls=Calls(fwd=1))


@pytree_dataclass
class DDNM(NullSpaceSolver):
    """Denoising Diffusion Null-space Model, for noise-free measurements (ICLR 2023).

        D+ = D + A^+ (y - A D)
        x' = D+ + sigma' (eta z + sqrt(1 - eta^2) eps_hat)

    Requirements: a linear operator, whose pseudo-inverse is used. The noise model is
    not used: the result explains y exactly, noise included. Use `DDNMPlus` for noisy
    data.

    Cost: T forwards, more with time travel (see `TimeTravel`); no derivative.

    Deviations: time travel noises the state (paper); the released code noises the
    uncorrected prediction, `TimeTravel(diffuse=renoise_prediction)`.

    Args: see `NullSpaceSolver`, and
        cutoff: (), in [0, 1); singular values up to this share of the largest count as
            zeros in A^+, if A has a singular system. By default none do but those at
            rounding level, and small ones amplify the noise of y.
    """

    requires: ClassVar[tuple[type, type]] = (LinearOperator, DiffusionPrior)

    cutoff: Any = 0.0

    @classmethod
    def released_code(cls, *, num_steps: int = 100) -> "DDNM":
        """Return the released settings: indices 990, 980, ..., 0 of 1000, eta 0.85.

        And no singular values below 0.03 of the largest, as in the released blurs.
        """
        return cls(grid=released_grid(num_steps), cutoff=RELEASED_CUTOFF)

    @classmethod
    def released_old_photo(cls, *, num_steps: int = 100) -> "DDNM":
        """Return the released settings for old photos, the only ones that travel.

        Back by two levels once, by noising the uncorrected prediction.
        """
        travel = TimeTravel(length=2, repeat=2, diffuse=renoise_prediction)
        return cls(grid=released_grid(num_steps), travel=travel)

    def move(
        self,
        problem: Problem,
        x: jax.Array,
        x0_hat: jax.Array,
        levels: Levels,
        noise: jax.Array,
    ) -> jax.Array:
        estimate = Estimate(x0_hat=x0_hat)
        free = Renoise(eta=self.eta).advance(x, estimate, *levels, noise)
        return free + towards_data(problem, x0_hat, cutoff=self.cutoff)


@pytree_dataclass
class DDNMPlus(NullSpaceSolver):
    """DDNM+ for noisy measurements, by singular directions.

    With y_i = (U^T y)_i / s_i and the next level sigma':

        s_i = 0                 D_i + sigma' (sqrt(1 - eta^2) eps_i + eta z_i)
        sigma' < sigma_y / s_i  D_i + w_i (y_i - D_i) + eta sigma' z_i,
                                w_i = sqrt(1 - eta^2) sigma' s_i / sigma_y
        otherwise               y_i + sqrt(sigma'^2 - sigma_y^2 / s_i^2) z_i

    w_i jumps from sqrt(1 - eta^2) to 1 where sigma' = sigma_y / s_i. This is `DDRM`
    with eta_b = 1 but for the start, which here knows nothing of the measurement.

    Requirements: a spectral operator and white noise of known standard deviation.

    Cost: T forwards, more with time travel; no derivative of the network.

    Deviations: none from the paper's formulas. The released code skips V^T before it
    scales eps_hat by singular directions, for all operators but inpainting, and uses
    singular values below its threshold in w_i; here both are as in the paper.

    Args: see `NullSpaceSolver`.
    """

    requires: ClassVar[tuple[type, type]] = (SpectralOperator, DiffusionPrior)
    requires_noise: ClassVar[type] = WhiteNoise

    @classmethod
    def released_settings(cls, *, num_steps: int = 100) -> "DDNMPlus":
        """Return the released settings: indices 990, 980, ..., 0 of 1000, eta 0.85."""
        return cls(grid=released_grid(num_steps))

    def move(
        self,
        problem: Problem,
        x: jax.Array,
        x0_hat: jax.Array,
        levels: Levels,
        noise: jax.Array,
    ) -> jax.Array:
        return spectral_step(problem, x, x0_hat, levels, noise, self.eta, 1.0)


def paper_room(sigma: jax.Array, std: Any) -> tuple[jax.Array, jax.Array]:
    """Return w and g of (3) for the level `sigma` = sigma' and noise `std` of y."""
    weight = jnp.minimum(1, safe_divide(sigma, std, otherwise=1))
    return weight, root_of_difference(sigma, jnp.minimum(sigma, std))  # w std


def released_room(sigma: jax.Array, std: Any) -> tuple[jax.Array, jax.Array]:
    """Return w and g of the released code: w is too large, g too small.

    It has a' = 1 / (1 + sigma'^2) where the root of a' belongs, and scales twice:

        w = min(1, sqrt(1 - a'^2) / (a' sigma_y))
        g = sigma' sqrt(1 - a'^2 - (w a' sigma_y)^2)

    Even for sigma_y = 0 the noise is too small, by sqrt(1 - a'^2).
    """
    alphas_cumprod = 1 / (1 + sigma**2)
    level, scaled = safe_sqrt(1 - alphas_cumprod**2), alphas_cumprod * std
    weight = jnp.minimum(1, safe_divide(level, scaled, otherwise=1))
    return weight, sigma * root_of_difference(level, jnp.minimum(level, scaled))


@pytree_dataclass
class SimplifiedDDNMPlus(NullSpaceSolver):
    """DDNM+ without a singular system, for operators whose A^+ does not amplify noise.

        w  = min(1, sigma' / s),   g^2 = sigma'^2 - w^2 s^2,   s = sigma_y / gain
        x' = D + w A^+ (y - A D) + g (eta z + sqrt(1 - eta^2) eps_hat)

    Exact in measured directions whose singular value is `gain`, the published 1 for
    inpainting; in unmeasured ones the noise g is smaller than the level sigma' asks
    for.

    Requirements: a linear operator and white noise of known standard deviation.

    Cost: T forwards, more with time travel; no derivative of the network.

    Deviations: the released code writes alpha-bar where its root belongs, in both w and
    g, and applies g to noise that is already scaled; that is `released_code`.

    Args: see `NullSpaceSolver`; eta = 1 is the paper's variant for DDPM; and
        room: `(sigma', s) -> (w, g)`.
        gain: (), of y over x, positive; multiply it along with the unit of y.
    """

    requires: ClassVar[tuple[type, type]] = (LinearOperator, DiffusionPrior)
    requires_noise: ClassVar[type] = WhiteNoise

    room: Room = static(default=paper_room)
    gain: Any = 1.0

    @classmethod
    def released_code(cls, *, num_steps: int = 100) -> "SimplifiedDDNMPlus":
        """Return the released settings, the wrong noise of `released_room` included."""
        return cls(grid=released_grid(num_steps), room=released_room)

    def move(
        self,
        problem: Problem,
        x: jax.Array,
        x0_hat: jax.Array,
        levels: Levels,
        noise: jax.Array,
    ) -> jax.Array:
        now, next = levels
        weight, spread = self.room(next.sigma, noise_std(problem) / self.gain)
        eps_hat = (x - x0_hat) / now.sigma
        kept = safe_sqrt(1 - jnp.asarray(self.eta, x.dtype) ** 2) * eps_hat
        corrected = x0_hat + weight * towards_data(problem, x0_hat)
        return corrected + spread * (self.eta * noise + kept)
