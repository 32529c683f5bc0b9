"""C-PiGDM: few-step solvers on the conjugate integrator of `conjugate`.

The data Psi that a direction has seen down to a level sigma, b = log(1 + sigma^2):

1. noise-free  Psi = b in the row space of A
2. noisy       Psi_i = b - q / (1 + q) log(1 + sigma^2 (1 + q) / q),  q = (s_y / s_i)^2
3. non-linear  as (1), with h^+(h(.)) for the projector on the row space
"""

from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp

from diffctl.core import DiffusionPrior
from diffctl.operators.base import (
    LinearOperator,
    Operator,
    Problem,
    SpectralOperator,
    WhiteNoise,
)
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.conjugate import (
    Coefficients,
    ConjugateGuidance,
    Parts,
    exactly_measured,
    few_steps,
)
from diffctl.solvers.data_steps import towards_data, towards_noisy_data
from diffctl.solvers.levels import Levels
from diffctl.solvers.pigdm import NonlinearInverse, estimate_variance
from diffctl.solvers.requirements import linear, noise_std, spectral
from diffctl.solvers.spectral import SpectralData


@pytree_dataclass
class ConjugatePiGDM(ConjugateGuidance):
    """C-PiGDM for noise-free measurements (Pandey et al., NeurIPS 2024), 5 to 20 steps.

    With P = A^+ A, E = exp(-w (b - b') / 2), tilt = 0 and the next level sigma':

        x <- sigma' eps_hat + (I - P) D + P (E D + (1 - E) A^+ y)
             + c_free (I - P) g + c_seen P g

    DDIM for w = 0; as w grows, DDNM with eta = 0 but for the terms in g.

    Requirements: a linear operator, whose pseudo-inverse is used (`Truncated` keeps it
    bounded); any noise model, which is not.

    Cost: T forwards and T VJPs for T levels of `grid`; memory of one VJP.

    Deviations: integrals are computed to the clean level, where the released code stops
    at sigma = 0.0105 and regularises by 1e-6.

    Args: see `ConjugateGuidance`.
    """

    requires: ClassVar[tuple[type, type]] = (LinearOperator, DiffusionPrior)

    guidance_scale: Any = 15.0

    @classmethod
    def super_resolution_x4(cls, *, num_steps: int = 5) -> "ConjugatePiGDM":
        """Return the released settings of fourfold super-resolution, noise-free."""
        return cls(grid=few_steps(num_steps), guidance_scale=15.0)

    def first_guess(self, problem: Problem) -> jax.Array:
        return linear(problem).pinv(problem.y)

    def pull(self, problem: Problem, x0_hat: jax.Array, sigma: jax.Array) -> jax.Array:
        return towards_data(problem, x0_hat)

    def measured_change(
        self, problem: Problem, parts: Parts, levels: Levels
    ) -> jax.Array:
        operator, weights = linear(problem), self.extra(exactly_measured, *levels)
        seen = operator(parts.combine(weights))
        on_y = jnp.squeeze(weights.on_y)
        explained = jax.tree.map(lambda a, y: a + on_y * y, seen, problem.y)
        return operator.pinv(explained)


@pytree_dataclass
class NoisyConjugatePiGDM(ConjugateGuidance):
    """C-PiGDM for noisy measurements, exact in every singular direction.

    As `ConjugatePiGDM`, with P replaced by the Wiener filter of PiGDM: per direction

        q_i   = sigma_y^2 / s_i^2
        Psi_i = b - q_i / (1 + q_i) log(1 + sigma^2 (1 + q_i) / q_i)
        x_i   <- sigma' eps_i + E_i D_i + (1 - E_i) y_i + c_i g_i

    Requirements: a spectral operator and white noise of known standard deviation.

    Cost: T forwards and T VJPs for T levels of `grid`; memory of one VJP.

    Deviations: the paper and mandt-lab/c-pigdm expand in sigma_y^2 and leave terms out,
    so that many steps do not converge to the flow, and directions with small singular
    values move the wrong way (`ExpandedConjugatePiGDM`). This converges. States start
    from the measurement through the Wiener filter of the first level: A^+ y, as
    published, leaves noise / s_i in directions of small s_i, which no later step takes
    back.

    Args: see `ConjugateGuidance`.
    """

    requires: ClassVar[tuple[type, type]] = (SpectralOperator, DiffusionPrior)
    requires_noise: ClassVar[type] = WhiteNoise

    guidance_scale: Any = 2.0

    @classmethod
    def super_resolution_x4(cls, *, num_steps: int = 5) -> "NoisyConjugatePiGDM":
        """Return the released settings of fourfold super-resolution, noise 0.1.

        The noise is 0.05 for images in [0, 1].
        """
        return cls(grid=few_steps(num_steps), guidance_scale=2.0, tilt=-0.15)

    def first_guess(self, problem: Problem) -> jax.Array:
        nothing = jnp.zeros(problem.operator.shape, self.grid.sigma.dtype)
        return self.pull(problem, nothing, self.grid.sigma[0])

    def pull(self, problem: Problem, x0_hat: jax.Array, sigma: jax.Array) -> jax.Array:
        damping = noise_std(problem) ** 2 / estimate_variance(sigma, 1.0)
        return towards_noisy_data(problem, x0_hat, damping)

    def measured_change(
        self, problem: Problem, parts: Parts, levels: Levels
    ) -> jax.Array:
        return by_directions(self, problem, parts, levels)

    def by_direction(self, data: SpectralData, levels: Levels) -> Coefficients:
        share = data.noise_std**2 / (data.s**2 + data.noise_std**2)  # q / (1 + q)

        def psi(sigma: jax.Array) -> jax.Array:
            power = sigma**2
            return jnp.log1p(power) - share[None] * jnp.log1p(power / share[None])

        return self.extra(psi, *levels)


@pytree_dataclass
class NonlinearConjugatePiGDM(ConjugateGuidance):
    """C-PiGDM for a non-linear h with h(h^+(h(x))) = h(x).

    As `ConjugatePiGDM`, with P v replaced by h^+(h(v)) for v = D, eps_hat and g, and
    A^+ y by h^+(y): a heuristic, which is exact where h is linear.

    Requirements: any operator, also one without derivatives (quantisation), and a
    pseudo-inverse `h_pinv` of it. The noise model is not used.

    Cost: T forwards and T VJPs for T levels of `grid`; memory of one VJP.

    Args: see `ConjugateGuidance`, and
        h_pinv: `(operator, y) -> signal`, part of the compiled program.
    """

    requires: ClassVar[tuple[type, type]] = (Operator, DiffusionPrior)
    checked: ClassVar[tuple[str, ...]] = ("h_pinv",)

    h_pinv: NonlinearInverse = static()

    def first_guess(self, problem: Problem) -> jax.Array:
        return self.h_pinv(problem.operator, problem.y)

    def pull(self, problem: Problem, x0_hat: jax.Array, sigma: jax.Array) -> jax.Array:
        return self.first_guess(problem) - self._project(problem, x0_hat)

    def measured_change(
        self, problem: Problem, parts: Parts, levels: Levels
    ) -> jax.Array:
        weights = self.extra(exactly_measured, *levels)
        projected = jax.tree.map(lambda part: self._project(problem, part), parts)
        on_y = jnp.squeeze(weights.on_y)
        return projected.combine(weights) + on_y * self.first_guess(problem)

    def _project(self, problem: Problem, x: jax.Array) -> jax.Array:
        return self.h_pinv(problem.operator, problem.operator(x))


class Directional(Protocol):
    """A solver, a pytree, that weights singular directions one by one."""

    def by_direction(self, data: SpectralData, levels: Levels) -> Coefficients:
        """Return what the weights of (4) exceed those without data by, (k,) each."""


def by_directions(
    solver: Directional, problem: Problem, parts: Parts, levels: Levels
) -> jax.Array:
    """Return the sum of parts and data, weighted by singular directions, (*shape)."""
    signals = parts.x0_hat, parts.eps, parts.g
    return spectral(problem).combined(
        _weighted, problem.y, signals, noise_std(problem), solver, levels
    )


def _weighted(
    s: jax.Array,
    coordinates: tuple[jax.Array, ...],
    std: Any,
    solver: Directional,
    levels: Levels,
) -> jax.Array:
    coefficients, x0_hat, eps, g = coordinates
    data = SpectralData.at(s, coefficients, std)
    weights = solver.by_direction(data, levels)
    predicted = weights.on_x0 * x0_hat + weights.on_eps * eps
    return predicted + weights.on_g * g + weights.on_y * data.y
