"""Particles whose measured directions are observed at every noise level.

In the directions i of A = U diag(s) V^T with s_i > 0, y_i = (U^T y)_i / s_i has the
standard deviation e_i = s_y / s_i. The twisting functions are Gaussian,

    g(x) = prod_{i active} N(x_i; b_i, v_i)

so that reverse steps N(m, q^2 I) can be combined with them exactly:

1. look   h = prod_{i active next} N(b_i'; m_i, q^2 + v_i') / prod_{i spent} g_i(x_i)
2. move   x_i' = k b_i' + (1 - k) m_i + sqrt(k v_i') z_i,  k = q^2 / (q^2 + v_i')
          for active i, and x_i' = m_i + q z_i for the others
3. last   x0 = D, without noise: the likelihood takes the place of g'

| solver    | b_i                      | v_i                             | active   |
|-----------|--------------------------|---------------------------------|----------|
| MCGdiff   | y_i                      | s^2 - e_i^2 + kappa (1 + e_i^2) | s >= e_i |
| FPS-SMC   | a path that ends in y_i  | 0                               | s >= e_i |
| its paper | a path that ends in y_i  | e_i^2                           | all      |

Which factors are `spent` in (1), and what is done in (3), is the `accounting`.
"""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from diffctl.core import Calls, DiffusionPrior
from diffctl.diffusion import AncestralLearned, Estimate, NoiseGrid, Renoise, ddpm
from diffctl.numerics.safe import safe_sqrt
from diffctl.operators.base import Problem, SpectralOperator, WhiteNoise
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.monte_carlo.particles import Outlook, ParticleSolver
from diffctl.solvers.monte_carlo.resampling import ResampleAlways
from diffctl.solvers.requirements import spectral
from diffctl.solvers.spectral import SpectralData

PAPER_ETA = 0.85


@pytree_dataclass
class Observation:
    """The factors of g at one level, (k,) each."""

    centre: jax.Array  # b
    variance: jax.Array  # v, of any value where it is not active
    active: jax.Array  # bool

    def log_density(self, x: jax.Array, spread: Any, chosen: jax.Array) -> jax.Array:
        """Return sum over `chosen` of log N(x; b, v + spread), 2 pi left out."""
        variance = jnp.where(chosen, self.variance + spread, 1)
        terms = (x - self.centre) ** 2 / variance + jnp.log(variance)
        return -jnp.sum(jnp.where(chosen, terms, 0)) / 2

    def pull(self, x: jax.Array, spread: Any, z: jax.Array) -> jax.Array:
        """Return a draw of N(x, spread) times g where it is active, else of N(x, ..).

        `z` is standard normal, (k,).
        """
        variance = jnp.where(self.active, self.variance, 1)
        gain = spread / (spread + variance)
        drawn = x + gain * (self.centre - x) + safe_sqrt(gain * variance) * z
        return jnp.where(self.active, drawn, x + safe_sqrt(spread) * z)


class Accounting(abc.ABC):
    """When factors are divided out, and what the end is weighted with."""

    @abc.abstractmethod
    def spent(self, now: Observation, next: Observation) -> jax.Array:
        """Return the factors of `now` that are divided out by the step, (k,) bool."""

    @abc.abstractmethod
    def owed(self, now: Observation, next: Observation) -> jax.Array:
        """Return the factors of `now` that are divided out at the end, (k,) bool."""

    @abc.abstractmethod
    def last(self, misfit: jax.Array) -> jax.Array:
        """Return the log weight of a clean signal, ()."""


@pytree_dataclass
class Exact(Accounting):
    """All factors are divided out, and the end is weighted with the likelihood.

    Exact for the discretised model as N grows, whatever the factors. Those of a
    direction that is released wait until the likelihood can take their place: the
    weights 1 / g alone would have an infinite variance.
    """

    def spent(self, now: Observation, next: Observation) -> jax.Array:
        return now.active & next.active

    def owed(self, now: Observation, next: Observation) -> jax.Array:
        return now.active & ~next.active

    def last(self, misfit: jax.Array) -> jax.Array:
        return -misfit


@pytree_dataclass
class Released(Exact):
    """`Exact` as it was released: only the last factors to go wait for the likelihood.

    Those of a direction that is released before others are divided out at once, which
    leaves the weights to a few particles.
    """

    def spent(self, now: Observation, next: Observation) -> jax.Array:
        return now.active & jnp.any(next.active)

    def owed(self, now: Observation, next: Observation) -> jax.Array:
        return now.active & ~jnp.any(next.active)


@pytree_dataclass
class PathObservation(Accounting):
    """The last factor of a direction stays, and the likelihood is not used.

    The posterior of a model whose state was observed as y_i at the level e_i, with
    variance kappa (1 + e_i^2): that of the problem as kappa and the steps tend to 0.
    """

    def spent(self, now: Observation, next: Observation) -> jax.Array:
        return now.active & next.active

    def owed(self, now: Observation, next: Observation) -> jax.Array:
        return jnp.zeros_like(now.active)

    def last(self, misfit: jax.Array) -> jax.Array:
        return jnp.zeros_like(misfit)


@pytree_dataclass
class KnownPath(Accounting):
    """All factors stay: the state was observed at each of the levels."""

    def spent(self, now: Observation, next: Observation) -> jax.Array:
        return jnp.zeros_like(now.active)

    def owed(self, now: Observation, next: Observation) -> jax.Array:
        return jnp.zeros_like(now.active)

    def last(self, misfit: jax.Array) -> jax.Array:
        return jnp.zeros_like(misfit)


@pytree_dataclass
class Filter(KnownPath):
    """All factors stay, and the likelihood is that of one more observation."""

    def last(self, misfit: jax.Array) -> jax.Array:
        return -misfit


def check_isotropic(solver: ParticleSolver) -> None:
    """Raise TypeError unless the noise of the reverse step is the same everywhere."""
    if isinstance(solver.reverse, AncestralLearned):
        raise TypeError(
            f"{type(solver).__name__} works in singular directions, where the noise of "
            "AncestralLearned is not independent. Use Ancestral() or DDIM(eta=1.0)."
        )


@pytree_dataclass
class ObservedParticles(ParticleSolver):
    """Particles that are combined with Gaussian factors; subclasses say which.

    Args: see `ParticleSolver`, and
        accounting: what is divided out, see `Accounting`.
    """

    requires: ClassVar[tuple[type, type]] = (SpectralOperator, DiffusionPrior)
    requires_noise: ClassVar[type] = WhiteNoise
    cost_formula: ClassVar[str] = "N T fwd"

    accounting: Accounting = Exact()

    @abc.abstractmethod
    def observations(self, key: jax.Array, data: SpectralData) -> Observation:
        """Return the factors of the levels of the grid, leaves (T + 1, k)."""

    @property
    def calls_of_a_look(self) -> Calls:
        return Calls(fwd=1)

    def check(self, problem: Problem, prior: DiffusionPrior) -> None:
        check_isotropic(self)
        super().check(problem, prior)

    def schedule(self, key: jax.Array, problem: Problem) -> Any:
        factors = self.observations(key, SpectralData.of(problem))
        now = jax.tree.map(lambda leaf: leaf[:-1], factors)
        next = jax.tree.map(lambda leaf: leaf[1:], factors)
        return *self.levels(), now, next

    def first_particles(
        self, noise: jax.Array, at: Any, problem: Problem, prior: DiffusionPrior
    ) -> tuple[jax.Array, jax.Array]:
        operator, first = spectral(problem), at[2]
        spread = 1 + self.grid.sigma[0] ** 2
        origin = jnp.zeros_like(first.centre)

        def draw(z: jax.Array) -> jax.Array:
            free = self.start(z, problem, prior)
            coordinates = operator.v_adjoint(z)
            change = first.pull(origin, spread, coordinates)
            return free + operator.v(change - jnp.sqrt(spread) * coordinates)

        log_weight = first.log_density(origin, spread, first.active)
        return jax.vmap(draw)(noise), jnp.broadcast_to(log_weight, noise.shape[:1])

    def look(
        self, x: jax.Array, at: Any, problem: Problem, prior: DiffusionPrior
    ) -> Outlook:
        now, next, here, ahead = at
        operator = spectral(problem)
        estimate = self.reverse.estimate(prior, x, now)
        mean = self.reverse.advance(x, estimate, now, next, jnp.zeros_like(x))
        std = self.reverse.noise_std(estimate, now, next)
        gained = ahead.log_density(operator.v_adjoint(mean), std**2, ahead.active)
        last = self.accounting.last(problem.misfit(estimate.x0_hat))
        coordinates = operator.v_adjoint(x)
        spent = here.log_density(coordinates, 0, self.accounting.spent(here, ahead))
        return Outlook(
            estimate=estimate,
            log_weight=jnp.where(next.sigma == 0, last, gained) - spent,
            owed=here.log_density(coordinates, 0, self.accounting.owed(here, ahead)),
            aside=mean,
        )

    def move(
        self, x: jax.Array, outlook: Outlook, at: Any, problem: Problem, z: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        now, next, _, ahead = at
        operator, mean = spectral(problem), outlook.aside
        std = self.reverse.noise_std(outlook.estimate, now, next)
        free = operator.v_adjoint(mean), operator.v_adjoint(z)
        change = ahead.pull(free[0], std**2, free[1]) - free[0] - std * free[1]
        moved = mean + std * z + operator.v(change)
        return moved, jnp.zeros_like(outlook.log_weight)


@pytree_dataclass
class MCGdiff(ObservedParticles):
    """Monte Carlo guided diffusion (Cardoso et al., ICLR 2024).

    A measurement with standard deviation e_i is an exact observation of the noisy
    signal at the level sigma = e_i. Above that level particles are led towards it,
    below it they are free.

    Requirements: a spectral operator and white noise. Directions with e_i below the
    last noisy level are led to the end.

    Cost: N T forwards for N particles and T levels; no derivative of the network.

    Deviations: by default kappa = 0.3, for which the weights have a moderate variance:
    exact as N grows. With the small kappa of the public code (gabrielvc/mcg_diff) they
    have none, and its final weights by the likelihood then count the measurement twice;
    `path_observation`, the settings of `default`, leaves them out and is exact in the
    limit of small kappa and steps. Estimates of one run scatter more than those of
    DDSMC in any case: at high levels the factors are far narrower than p(y | x). A
    direction is active down to the first level above e_i (the code: to the nearest).
    What that adds to the noise makes up for the spread that coarse reverse steps lose
    below: for a scalar N(0.3, 0.25) measured with 0.05, posterior variance 0.0025, 100
    Karras levels give 0.0027 (from the nearest: 0.0016) and 100 DDPM levels 0.0052
    (0.0002). Particles start from the model times g, not from N(0, I).

    Args: see `ParticleSolver`, `ObservedParticles`, and
        kappa: () > 0, extra variance of the observation in variance-preserving units.
    """

    reference: ClassVar[str] = (
        "Cardoso et al., Monte Carlo Guided Denoising Diffusion Models for Bayesian "
        "Linear Inverse Problems, ICLR 2024"
    )

    kappa: Any = 0.3

    @classmethod
    def default(cls, *, num_steps: int = 100, num_particles: int = 64) -> "MCGdiff":
        """Return settings for noisy images in [-1, 1] on exact DDPM levels.

        Those of `path_observation`: a kappa of 0.3 far exceeds the noise of an image,
        and with more than a few measured directions its weights degenerate.
        """
        return cls.path_observation(grid=ddpm(num_steps), num_particles=num_particles)

    @classmethod
    def path_observation(
        cls, *, grid: NoiseGrid, num_particles: int = 64, kappa: float = 1e-4
    ) -> "MCGdiff":
        """Return the sampler for small kappa, also for nearly noise-free measurements.

        Measured directions come out within sqrt(kappa) of the measurement, noise aside.
        """
        return cls(
            grid=grid,
            num_particles=num_particles,
            kappa=kappa,
            accounting=PathObservation(),
        )

    @classmethod
    def released_code(
        cls, *, num_steps: int = 100, num_particles: int = 64, kappa: float = 1e-4
    ) -> "MCGdiff":
        """Return the released settings, which count noisy measurements twice.

        On exact DDPM levels: the code spaces them by the square root of alpha_bar and
        inserts the levels of the measurement.
        """
        return cls(
            grid=ddpm(num_steps),
            num_particles=num_particles,
            kappa=kappa,
            resampling=ResampleAlways(),
            accounting=Released(),
        )

    def observations(self, key: jax.Array, data: SpectralData) -> Observation:
        sigma = self.grid.sigma[:, None]
        std = data.std[None, :]
        active = data.measured[None, :] & (sigma >= std) & (sigma > 0)
        variance = sigma**2 - std**2 + self.kappa * (1 + std**2)
        return Observation(
            centre=jnp.broadcast_to(data.y[None, :], active.shape),
            variance=variance,
            active=active,
        )


Path = Callable[[jax.Array, NoiseGrid, SpectralData], Observation]


def known_path(key: jax.Array, grid: NoiseGrid, data: SpectralData) -> Observation:
    """Return a path that the noisy signal itself takes in the measured directions.

    It starts from y_i at the level e_i, where y_i is the noisy signal, and is drawn
    upwards: b = y_i + noise of variance s^2 - e_i^2, with independent increments.
    """
    sigma, std = grid.sigma[:, None], data.std[None, :]
    variance = jnp.maximum(sigma**2 - std**2, 0)
    gaps = variance - jnp.append(variance[1:], jnp.zeros_like(variance[:1]), axis=0)
    noise = jax.random.normal(key, variance.shape, variance.dtype)
    increments = safe_sqrt(gaps) * noise
    path = data.y[None, :] + jnp.cumsum(increments[::-1], axis=0)[::-1]
    return Observation(
        centre=path,
        variance=jnp.zeros_like(path),
        active=data.measured[None, :] & (sigma >= std) & (sigma > 0),
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
