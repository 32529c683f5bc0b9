"""Split Gibbs sampling: the likelihood and the prior take turns.

The target couples the signal x with a copy z of it, at the coupling level rho:

    pi_rho(x, z) proportional to p(x) p(y | z) exp(-|x - z|^2 / (2 rho^2))

1. likelihood  z ~ p(y | z) exp(-|z - x|^2 / (2 rho^2)); for a linear A
               N(P^{-1} (A^T y / s_y^2 + x / rho^2), P^{-1}),
               P = A^T A / s_y^2 + I / rho^2
2. prior       x ~ p(x) exp(-|x - z|^2 / (2 rho^2)) = p(x0 | x_rho = z): the reverse
               diffusion from the level rho, started in z
3. anneal      rho_k = max(rho_min, rho_0 decay^k)

The x-marginal of pi_rho is the posterior with the noise s_y^2 I + rho^2 A A^T.
"""

from typing import Any, ClassVar

import jax

from diffctl.core import Calls, DiffusionPrior, Solver, StepTrace
from diffctl.diffusion import EDM, Ancestral, EulerMaruyama, OneCallStep, karras
from diffctl.numerics.normal import standard_normal
from diffctl.operators.base import Operator, Problem
from diffctl.pytree import pytree_dataclass
from diffctl.solvers.monte_carlo.gibbs_schedule import (
    GibbsSchedule,
    annealed_couplings,
    below_coupling,
)
from diffctl.solvers.monte_carlo.likelihood_steps import (
    LikelihoodStep,
    SpectralLikelihood,
)


@pytree_dataclass
class PnPDM(Solver):
    """Plug-and-play diffusion models: split Gibbs sampling (Wu et al., NeurIPS 2024).

    Each iteration draws z given x by the likelihood, then x given z by the reverse
    diffusion from the level rho. The result is the last x; its law tends to the
    posterior as rho_min tends to 0 and the steps of the prior shrink, while ever more
    iterations are needed. `record=lambda carry, trace: carry` keeps x after every
    network call; `ends_of_iterations` tells which of them are samples.

    Requirements: those of the likelihood step. White noise and a spectral operator for
    the default; `PerturbedLikelihood` takes any linear operator, `LangevinLikelihood`
    any operator and noise.

    Cost: one forward for rho and for each level below, in each iteration: 2582 for the
    default; no derivative of the network.

    Deviations: the level rho is inserted into the grid, and the prior step is
    `Ancestral` by default (zihuiwu/PnP-DM-public: an Euler step of the reverse SDE from
    the first level below rho; `released_code`). One sample is returned; the code keeps
    20 iterates, evenly spaced after the first 40, for its averages.

    Args:
        schedule: couplings and levels.
        likelihood: how z is drawn.
        reverse: reverse step of the prior.
    """

    requires: ClassVar[tuple[type, type]] = (Operator, DiffusionPrior)
    cost_formula: ClassVar[str] = "n T fwd, T the levels below rho"
    reference: ClassVar[str] = (
        "Wu et al., Principled Probabilistic Imaging using Diffusion Models as "
        "Plug-and-Play Priors, NeurIPS 2024"
    )

    schedule: GibbsSchedule
    likelihood: LikelihoodStep = SpectralLikelihood()
    reverse: OneCallStep = Ancestral()

    @classmethod
    def default(
        cls,
        *,
        num_iterations: int = 100,
        rho_min: float = 0.1,
        likelihood: LikelihoodStep | None = None,
    ) -> "PnPDM":
        """Return settings for images in [-1, 1]: rho from 10 down to `rho_min`."""
        couplings = annealed_couplings(num_iterations, 10.0, rho_min, 0.9)
        grid = karras(100, sigma_min=0.0105, sigma_max=80.0)
        return cls(
            schedule=GibbsSchedule.create(couplings, grid),
            likelihood=SpectralLikelihood() if likelihood is None else likelihood,
        )

    @classmethod
    def released_code(
        cls, *, num_iterations: int = 100, rho_min: float = 0.3
    ) -> "PnPDM":
        """Return the released settings for linear operators."""
        couplings = annealed_couplings(num_iterations, 10.0, rho_min, 0.9)
        grid = karras(100, sigma_min=0.0105, sigma_max=80.0)
        return cls(
            schedule=GibbsSchedule.create(couplings, grid, below_coupling),
            reverse=EulerMaruyama(schedule=EDM()),
        )

    def check(self, problem: Problem, prior: DiffusionPrior) -> None:
        """Raise TypeError unless the likelihood step can take the problem."""
        given = {"operator": problem.operator, "noise": problem.noise}
        for (role, value), needed in zip(
            given.items(), self.likelihood.needs, strict=True
        ):
            if not isinstance(value, needed):
                raise TypeError(
                    f"{type(self.likelihood).__name__} needs a {needed.__name__} as "
                    f"{role}; {type(value).__name__} is not one. Use "
                    "LangevinLikelihood(), or PerturbedLikelihood() for linear "
                    "operators with white noise."
                )

    def ends_of_iterations(self) -> jax.Array:
        """Return after which network calls an iteration is complete, (num_calls,)."""
        return self.schedule.next.sigma == 0

    def init(
        self, key: jax.Array, problem: Problem, prior: DiffusionPrior
    ) -> tuple[jax.Array, Any]:
        start_key, steps_key = jax.random.split(key)
        rho = self.schedule.rho
        keys = jax.random.split(steps_key, rho.size)
        return jax.random.normal(start_key, prior.shape, rho.dtype), (
            self.schedule,
            keys,
        )

    def step(
        self, carry: jax.Array, x: Any, problem: Problem, prior: DiffusionPrior
    ) -> tuple[jax.Array, StepTrace]:
        at, key = x
        likelihood_key, noise_key = jax.random.split(key)
        state = jax.lax.cond(
            at.first,
            lambda x: self.likelihood(likelihood_key, problem, x, at.rho),
            lambda x: x,
            carry,
        )
        estimate = self.reverse.estimate(prior, state, at.now)
        noise = standard_normal(noise_key, state)
        moved = self.reverse.advance(state, estimate, at.now, at.next, noise)
        misfit = problem.misfit(estimate.x0_hat)
        return moved, StepTrace(misfit=misfit, calls=Calls(fwd=1))

    def finalize(
        self, carry: jax.Array, problem: Problem, prior: DiffusionPrior
    ) -> jax.Array:
        return carry
