"""The spectral step of DDRM and DDNM+: measured directions follow the measurement.

Per singular direction i of A = U diag(s) V^T, with the noise level s_y of y, the next
level sigma', D the clean estimate and z standard normal,

    y_i = (U^T y)_i / s_i, of standard deviation s_y / s_i,
    D_i = (V^T D)_i,  z_i = (V^T z)_i,

1. s_i = 0                 x_i = D_i + sqrt(1 - eta^2) sigma' eps_i + eta sigma' z_i
2. sigma' <  s_y / s_i     x_i = D_i + sqrt(1 - eta^2) sigma' (y_i - D_i) s_i / s_y
                                 + eta sigma' z_i
3. sigma' >= s_y / s_i     x_i = (1 - eta_b) D_i + eta_b y_i
                                 + sqrt(sigma'^2 - eta_b^2 s_y^2 / s_i^2) z_i

If D is the truth, x_i is N(truth_i, sigma'^2) over the measurement noise in all three.
(1) is the `Renoise` step, which is taken in the whole space; (2) and (3) then replace
its components in the measured directions. What V^T does not see belongs to (1) too.
"""

from typing import Any

import jax
import jax.numpy as jnp

from diffctl.diffusion import Estimate, Renoise
from diffctl.numerics.factors import inverse_values
from diffctl.numerics.safe import root_of_difference, safe_divide, safe_sqrt
from diffctl.operators.base import Problem
from diffctl.pytree import pytree_dataclass
from diffctl.solvers.levels import Levels
from diffctl.solvers.requirements import noise_std, spectral


@pytree_dataclass
class SpectralData:
    """The measurement in the coordinates of V, (k,) each."""

    y: jax.Array  # y_i, 0 where s_i = 0
    s: jax.Array  # s_i, 0 also for singular values at rounding level
    std: jax.Array  # s_y / s_i, 0 where s_i = 0
    noise_std: jax.Array  # s_y, ()

    @classmethod
    def of(cls, problem: Problem) -> "SpectralData":
        """Transform the measurement of a problem.

        Sums over coordinates (weights, acceptance rates) need it. Where singular values
        of a dense A coincide, its derivatives in A are NaN.
        """
        operator = spectral(problem)
        coefficients = operator.u_adjoint(problem.y)
        s = operator.singular_values.astype(coefficients.dtype)
        return cls.at(s, coefficients, noise_std(problem))

    @classmethod
    def at(cls, s: jax.Array, coefficients: jax.Array, std: Any) -> "SpectralData":
        """Build from singular values, U^T y and s_y: part of the rules of `combined`.

        Unlike coordinates (`of`), rules have derivatives in A wherever they have any.
        """
        inverse = inverse_values(s)
        std = jnp.asarray(std, inverse.dtype)
        return cls(
            y=jnp.where(inverse > 0, inverse * coefficients, 0),
            s=safe_divide(1, inverse),
            std=std * inverse,
            noise_std=std,
        )

    @property
    def measured(self) -> jax.Array:
        """Where s_i > 0, (k,)."""
        return self.s > 0

    def below(self, sigma: jax.Array) -> jax.Array:
        """Return where y_i is known and no noisier than `sigma`, (k,)."""
        return self.measured & (self.std <= sigma)


def spectral_step(
    problem: Problem,
    x: jax.Array,
    x0_hat: jax.Array,
    levels: Levels,
    noise: jax.Array,
    eta: Any,
    eta_b: Any,
) -> jax.Array:
    """Return the next state by (1), (2) and (3).

    Args:
        problem: with a spectral operator and white noise.
        x: state at `levels[0]`, (*shape).
        x0_hat: D, (*shape).
        levels: now and next.
        noise: z, (*shape).
        eta: share of fresh noise in (1) and (2), in [0, 1].
        eta_b: trust in the measurement in (3), (), in [0, 1].
    """
    free = Renoise(eta=eta).advance(x, Estimate(x0_hat=x0_hat), *levels, noise)
    signals, trust = (free, x0_hat, noise), (eta, eta_b)
    return free + spectral(problem).combined(
        _replacement, problem.y, signals, noise_std(problem), levels[1].sigma, trust
    )


def _replacement(
    s: jax.Array,
    coordinates: tuple[jax.Array, ...],
    noise_std: Any,
    sigma: jax.Array,
    trust: tuple[Any, Any],
) -> jax.Array:
    """Return what (2) and (3) add to the coordinates of (1), (k,)."""
    coefficients, free, prediction, z = coordinates
    data, (eta, eta_b) = SpectralData.at(s, coefficients, noise_std), trust
    gap = data.y - prediction
    pull = safe_sqrt(1 - eta**2) * sigma * safe_divide(data.s, data.noise_std)
    noisier = prediction + pull * gap + eta * sigma * z
    spread = root_of_difference(sigma, eta_b * data.std)
    cleaner = prediction + eta_b * gap + spread * z
    target = jnp.where(data.below(sigma), cleaner, noisier)
    return jnp.where(data.measured, target - free, 0)
