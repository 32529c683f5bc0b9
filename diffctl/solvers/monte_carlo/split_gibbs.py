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

import abc
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.core import Calls, DiffusionPrior, Solver, StepTrace
from diffctl.diffusion import (
    EDM,
    Ancestral,
    EulerMaruyama,
    NoiseGrid,
    NoiseLevel,
    OneCallStep,
    karras,
)
from diffctl.numerics.langevin import langevin_step, run_chain
from diffctl.numerics.normal import standard_normal
from diffctl.numerics.safe import safe_sqrt
from diffctl.operators.base import (
    LinearOperator,
    Operator,
    Problem,
    SpectralOperator,
    WhiteNoise,
)
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.requirements import linear, noise_std, spectral
from diffctl.solvers.spectral import SpectralData


class LikelihoodStep(abc.ABC):
    """A draw of z given x, by (1)."""

    needs: ClassVar[tuple[type, type]]  # operator class, noise class

    @abc.abstractmethod
    def __call__(
        self, key: jax.Array, problem: Problem, x: jax.Array, rho: jax.Array
    ) -> jax.Array:
        """Return z, (*shape)."""


@pytree_dataclass
class SpectralLikelihood(LikelihoodStep):
    """The exact draw in singular directions."""

    needs: ClassVar[tuple[type, type]] = (SpectralOperator, WhiteNoise)

    def __call__(
        self, key: jax.Array, problem: Problem, x: jax.Array, rho: jax.Array
    ) -> jax.Array:
        operator, data = spectral(problem), SpectralData.of(problem)
        gain = jnp.where(data.measured, rho**2 / (rho**2 + data.std**2), 0)
        noise = rho * standard_normal(key, x)
        shrink = safe_sqrt(1 - gain) - 1
        pull = gain * (data.y - operator.v_adjoint(x))
        return x + noise + operator.v(pull + shrink * operator.v_adjoint(noise))


@pytree_dataclass
class PerturbedLikelihood(LikelihoodStep):
    """The exact draw as the solution of a perturbed problem, by conjugate gradients.

    z = w + A^T (A A^T + s_y^2 / rho^2 I)^{-1} (y + s_y n - A w),  w = x + rho n'
    """

    needs: ClassVar[tuple[type, type]] = (LinearOperator, WhiteNoise)

    def __call__(
        self, key: jax.Array, problem: Problem, x: jax.Array, rho: jax.Array
    ) -> jax.Array:
        signal_key, data_key = jax.random.split(key)
        operator, std = linear(problem), noise_std(problem)
        start = x + rho * standard_normal(signal_key, x)
        perturbed = operator.restrict(problem.noise.sample(data_key, problem.y))
        residual = jax.tree.map(jnp.subtract, perturbed, operator(start))
        return start + operator.damped_pinv(residual, (std / rho) ** 2)


@pytree_dataclass
class LangevinLikelihood(LikelihoodStep):
    """Langevin steps from x, for any differentiable operator and noise model.

    Unadjusted: its bias grows with `step_size`, which must stay below twice the inverse
    of the largest curvature, |A|^2 / s_y^2 + 1 / rho^2.
    """

    needs: ClassVar[tuple[type, type]] = (Operator, object)
    step_size: Any = 1e-4
    num_inner: int = static(default=100)

    def __call__(
        self, key: jax.Array, problem: Problem, x: jax.Array, rho: jax.Array
    ) -> jax.Array:
        def score(z: jax.Array) -> jax.Array:
            return -jax.grad(problem.misfit)(z) - (z - x) / rho**2

        def kernel(noise: jax.Array, z: jax.Array) -> jax.Array:
            return langevin_step(noise, z, score, self.step_size)

        draw = partial(standard_normal, like=x)
        return run_chain(key, kernel, x, self.num_inner, draw=draw)


@pytree_dataclass
class GibbsSchedule:
    """The network calls of all iterations in one row, leaves (num_calls,)."""

    now: NoiseLevel
    next: NoiseLevel
    rho: jax.Array  # of the iteration
    first: jax.Array  # bool, where an iteration begins

    @classmethod
    def create(
        cls, couplings: Any, grid: NoiseGrid, enter: "Enter | None" = None
    ) -> "GibbsSchedule":
        """Go down `grid` to the clean level once for each of `couplings`.

        Args:
            couplings: levels rho, one for each iteration.
            grid: levels of the prior step, of which those below rho are used.
            enter: where the prior step starts; by default at rho itself.

        Raises:
            ValueError: a coupling is not above the lowest level of the grid.
        """
        couplings = np.asarray(couplings, dtype=np.float64)
        sigma = np.asarray(grid.sigma, dtype=np.float64)
        if not np.all(couplings > sigma[-2]):
            raise ValueError(
                f"a coupling level is {couplings.min():g}; expected levels above the "
                f"lowest of the grid, {sigma[-2]:g}. Raise rho_min or lower the grid."
            )
        enter = at_coupling if enter is None else enter
        rows = [enter(rho, sigma[sigma < rho]) for rho in couplings]
        counts = [row.size - 1 for row in rows]
        return cls(
            now=_levels([row[:-1] for row in rows]),
            next=_levels([row[1:] for row in rows]),
            rho=jnp.asarray(np.repeat(couplings, counts)),
            first=jnp.asarray(np.concatenate([np.arange(n) == 0 for n in counts])),
        )


Enter = Callable[[float, np.ndarray], np.ndarray]


def at_coupling(rho: float, below: np.ndarray) -> np.ndarray:
    """Return the levels from rho itself to the clean one."""
    return np.append(rho, below)


def below_coupling(rho: float, below: np.ndarray) -> np.ndarray:
    """Return the levels of the grid below rho, as the public code: too little noise."""
    return below


def annealed_couplings(
    num_iterations: int, rho_max: float, rho_min: float, decay: float
) -> np.ndarray:
    """Return rho of (3), (num_iterations,)."""
    return np.maximum(rho_min, rho_max * decay ** np.arange(num_iterations))


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


def _levels(rows: list[np.ndarray]) -> NoiseLevel:
    """Return levels of the EDM schedule, whose time is sigma and whose scale is 1."""
    sigma = jnp.asarray(np.concatenate(rows))
    return NoiseLevel(sigma=sigma, scale=jnp.ones_like(sigma), time=sigma)
