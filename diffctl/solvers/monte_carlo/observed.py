"""Particles whose measured directions are observed at every noise level.

In the directions i of A = U diag(s) V^T with s_i > 0, y_i = (U^T y)_i / s_i has the
standard deviation e_i = s_y / s_i. The twisting functions are Gaussian,

    g(x) = prod_{i active} N(x_i; b_i, v_i)

so that reverse steps N(m, q^2 I) can be combined with them exactly:

1. look   h = prod_{i active next} N(b_i'; m_i, q^2 + v_i') / prod_{i spent} g_i(x_i)
2. move   x_i' = k b_i' + (1 - k) m_i + sqrt(k v_i') z_i,  k = q^2 / (q^2 + v_i')
          for active i, and x_i' = m_i + q z_i for the others
3. last   x0 = D, without noise: the likelihood takes the place of g'

Which b, v and directions is what `MCGdiff` and `FPSSMC` differ in; which factors are
`spent` in (1), and what is done in (3), is the `accounting`.
"""

import abc
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from diffctl.core import Calls, DiffusionPrior
from diffctl.diffusion import AncestralLearned
from diffctl.operators.base import Problem, SpectralOperator, WhiteNoise
from diffctl.pytree import pytree_dataclass
from diffctl.solvers.monte_carlo.accounting import Accounting, Exact
from diffctl.solvers.monte_carlo.observation import Observation
from diffctl.solvers.monte_carlo.particles import Outlook, ParticleSolver
from diffctl.solvers.requirements import spectral
from diffctl.solvers.spectral import SpectralData


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
