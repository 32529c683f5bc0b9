"""What solvers share that go down the noise levels of a latent prior."""

from typing import Any

import jax

from diffctl.core import LatentPrior, Solver
from diffctl.diffusion import NoiseGrid, ddpm
from diffctl.diffusion.betas import Betas
from diffctl.operators.base import Operator, Problem
from diffctl.pytree import pytree_dataclass
from diffctl.solvers.levels import LevelSolver


class LatentSolver(Solver):
    """A solver whose carry is the latent z_sigma, (*latent.shape), at one noise level.

    `xs` begins with the level that a step starts at. Such solvers can be started
    anywhere on the way, see `FlashDiffusion`.
    """

    def finalize(self, carry: Any, problem: Problem, prior: Any) -> jax.Array:
        return prior.decode(carry)


@pytree_dataclass
class LatentLevelSolver(LatentSolver, LevelSolver):
    """A latent solver with one step per level of its grid, down to the clean latent."""

    def state_shape(self, prior: LatentPrior) -> tuple[int, ...]:
        return prior.latent.shape


@pytree_dataclass
class DecodedOperator(Operator):
    """z -> A(decode(z)): what is measured of a latent. Not linear in general."""

    operator: Operator
    prior: LatentPrior

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.prior.latent.shape

    def __call__(self, z: jax.Array) -> Any:
        """Return A(decode(z))."""
        return self.operator(self.prior.decode(z))

    def restrict(self, y: Any) -> Any:
        return self.operator.restrict(y)

    def num_observed(self) -> Any:
        return self.operator.num_observed()


def latent_problem(problem: Problem, prior: LatentPrior) -> Problem:
    """Return the problem of finding the latent of the image."""
    operator = DecodedOperator(operator=problem.operator, prior=prior)
    return Problem(y=problem.y, operator=operator, noise=problem.noise)


def scaled_linear_grid(
    num_steps: int, beta_start: float = 0.00085, beta_end: float = 0.012
) -> NoiseGrid:
    """Return `num_steps` of the 1000 levels of a latent diffusion model.

    The defaults are those of Stable Diffusion; unconditional models of
    CompVis/latent-diffusion have 0.0015 and 0.0195.
    """
    betas = Betas.of("scaled_linear", start=beta_start, end=beta_end)
    return ddpm(num_steps, betas.schedule())
