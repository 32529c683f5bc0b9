"""Tweedie moment projection: the posterior of x0 with its covariance from Tweedie.

At level sigma with the estimate D = D(x) and J = dD/dx, p(x0 | x) is taken for
N(D, sigma^2 J), which is exact for every Gaussian prior:

1. C = sigma^2 A J A^T + sigma_y^2 I
2. G = J^T A^T C^{-1} (y - A D)
3. x <- reverse step + gamma G, gamma the step's own weight of a score

Two VJPs give A J^T A^T w and (2); the models below say how C is formed and solved. The
Jacobian of a network is not symmetric and may have negative directions: the models use
the symmetric part and no negative variances.
"""

import abc
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from diffctl.core import Calls, DiffusionPrior, StepTrace
from diffctl.diffusion import (
    DDIM,
    VE,
    VP,
    EulerMaruyama,
    OneCallStep,
    Schedule,
    uniform,
)
from diffctl.numerics.batching import chunked_vmap
from diffctl.numerics.normal import standard_normal
from diffctl.numerics.vectors import from_vector, to_vector, vector_size
from diffctl.operators.base import LinearOperator, Problem, WhiteNoise
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.levels import (
    LevelSolver,
    estimate_with_pullback,
)
from diffctl.solvers.requirements import linear, noise_std
from diffctl.solvers.tasks import for_task

Product = Callable[[jax.Array], jax.Array]  # w -> sigma^2 A J^T A^T w, (m,) each


class MomentModel(abc.ABC):
    """How the covariance S = sigma^2 A J A^T of the clean measurement is modelled."""

    @abc.abstractmethod
    def solve(
        self, key: jax.Array, product: Product, residual: jax.Array, variance: jax.Array
    ) -> jax.Array:
        """Return (S + variance I)^{-1} residual, (m,), variance = sigma_y^2."""

    @abc.abstractmethod
    def num_products(self, size: int) -> int:
        """Return how many products with S are made, for `size` = m measurements."""


@pytree_dataclass
class FullMoment(MomentModel):
    """S itself, (m, m), by m VJPs: for up to some hundred measurements.

    Args:
        chunk_size: VJPs at a time; all at once if None.
    """

    chunk_size: int | None = static(default=None)

    def solve(
        self, key: jax.Array, product: Product, residual: jax.Array, variance: jax.Array
    ) -> jax.Array:
        basis = jnp.eye(residual.size, dtype=residual.dtype)
        rows = chunked_vmap(product, chunk_size=self.chunk_size)(basis)
        moment = (rows + rows.T) / 2
        lacking = jnp.maximum(-jnp.diagonal(moment), 0)
        return jnp.linalg.solve(moment + jnp.diag(lacking + variance), residual)

    def num_products(self, size: int) -> int:
        return size


@pytree_dataclass
class DiagonalMoment(MomentModel):
    """The diagonal of S, by m VJPs.

    Args:
        chunk_size: VJPs at a time, of which only the diagonal is kept: memory of
            (chunk_size, m); all at once if None.
    """

    chunk_size: int | None = static(default=32)

    def solve(
        self, key: jax.Array, product: Product, residual: jax.Array, variance: jax.Array
    ) -> jax.Array:
        def entry(i: jax.Array) -> jax.Array:
            return product(jnp.zeros_like(residual).at[i].set(1))[i]

        diagonal = chunked_vmap(entry, self.chunk_size)(jnp.arange(residual.size))
        return residual / (jnp.maximum(diagonal, 0) + variance)

    def num_products(self, size: int) -> int:
        return size


@pytree_dataclass
class RowSums(MomentModel):
    """The row sums of S for its diagonal, by one VJP: the variant for images.

    Exact where S is diagonal; sensible where it nearly is, with A a mask.
    """

    def solve(
        self, key: jax.Array, product: Product, residual: jax.Array, variance: jax.Array
    ) -> jax.Array:
        sums = product(jnp.ones_like(residual))
        return residual / (jnp.maximum(sums, 0) + variance)

    def num_products(self, size: int) -> int:
        return 1


@pytree_dataclass
class HutchinsonMoment(MomentModel):
    """An unbiased estimate of the diagonal of S, from random signs z: mean of z * S z.

    Args:
        num_probes: VJPs, all at once.
    """

    num_probes: int = static(default=20)

    def solve(
        self, key: jax.Array, product: Product, residual: jax.Array, variance: jax.Array
    ) -> jax.Array:
        diagonal = self.diagonal(key, product, residual)
        return residual / (jnp.maximum(diagonal, 0) + variance)

    def diagonal(self, key: jax.Array, product: Product, like: jax.Array) -> jax.Array:
        """Return the estimate of the diagonal, of the shape of `like`."""
        shape = (self.num_probes, like.size)
        probes = jax.random.rademacher(key, shape, like.dtype)
        return jnp.mean(probes * jax.vmap(product)(probes), axis=0)

    def num_products(self, size: int) -> int:
        return self.num_probes


class _Experiment(NamedTuple):
    schedule: Schedule
    num_steps: int
    reverse: OneCallStep
    moment: MomentModel


_FIELD, _FACES = VP(beta_min=0.01, beta_max=25.0), VE(sigma_min=0.01, sigma_max=348.0)
_RELEASED: Mapping[str, _Experiment] = {
    "gaussian_field": _Experiment(
        _FIELD, 1000, EulerMaruyama(schedule=_FIELD), FullMoment()
    ),
    "gaussian_mixture": _Experiment(
        VP(beta_min=0.1, beta_max=25.0), 1000, DDIM(eta=0.4), FullMoment()
    ),
    "cifar": _Experiment(VP(), 1000, DDIM(eta=1.0), RowSums()),
    "faces": _Experiment(_FACES, 100, EulerMaruyama(schedule=_FACES), RowSums()),
}


@pytree_dataclass
class TMPD(LevelSolver):
    """Tweedie Moment Projected Diffusion (Boys et al., 2023).

        x <- reverse step + gamma J^T A^T (sigma^2 A J A^T + sigma_y^2 I)^{-1} (y - A D)

    With `FullMoment`, for a Gaussian prior of any covariance, the result is the reverse
    process of the posterior itself; the default, `RowSums`, is so where covariance and
    A are diagonal, and is made for masks.

    Requirements: a linear operator and white noise of positive standard deviation.

    Cost: T forwards and T (p + 1) VJPs for T levels of `grid`, p the products of the
    moment model: m measurements for `FullMoment` and `DiagonalMoment`, 1 for `RowSums`,
    the probes for `HutchinsonMoment`. Memory of p VJPs at once, or of a chunk of them.

    Deviations: the moment is symmetrised and its diagonal kept non-negative. The public
    code (bb515/tmpdjax) leaves its random-probe variant unfinished; here it is
    Hutchinson's with random signs.

    Args:
        grid: noise levels, T steps; 100 to 1000 published.
        reverse: one-call reverse step; its `bound` is inside the gradient.
            `EulerMaruyama` and `DDIM` are published.
        moment: how the covariance is modelled.
    """

    requires: ClassVar[tuple[type, type]] = (LinearOperator, DiffusionPrior)
    requires_noise: ClassVar[type] = WhiteNoise
    cost_formula: ClassVar[str] = "T fwd + T (products + 1) VJP (with the covariance)"
    reference: ClassVar[str] = (
        "Boys et al., Tweedie Moment Projected Diffusions for Inverse Problems, 2023"
    )

    reverse: OneCallStep = DDIM(eta=1.0)
    moment: MomentModel = RowSums()

    @classmethod
    def released_code(cls, experiment: str, *, num_steps: int | None = None) -> "TMPD":
        """Return the settings of bb515/tmpdjax for one of its experiments.

        "gaussian_field" (VP, beta 0.01 to 25, Euler-Maruyama, noise 0.1),
        "gaussian_mixture" (VP, beta 0.1 to 25, DDIM with eta 0.4, noise 1), "cifar"
        (VP, DDIM with eta 1) with 1000 steps, and "faces" (VE up to 348,
        Euler-Maruyama) with 100, unless `num_steps` says otherwise. Equally spaced in
        time from 1 to 1 / num_steps; images have row sums, the others all moments.
        """
        settings = for_task(_RELEASED, experiment)
        steps = settings.num_steps if num_steps is None else num_steps
        return cls(
            grid=uniform(steps, settings.schedule, 1.0, 1 / steps),
            reverse=settings.reverse,
            moment=settings.moment,
        )

    def step(
        self, carry: jax.Array, x: Any, problem: Problem, prior: DiffusionPrior
    ) -> tuple[jax.Array, StepTrace]:
        state, (now, next, key) = carry, x
        reverse_key, probe_key = jax.random.split(key)
        estimate, pull_back = estimate_with_pullback(self.reverse, prior, state, now)
        operator, std = linear(problem), jnp.asarray(noise_std(problem), state.dtype)
        residual = problem.residual(estimate.x0_hat)

        def product(w: jax.Array) -> jax.Array:
            pulled = pull_back(operator.adjoint(from_vector(w, residual)))
            return now.sigma**2 * to_vector(operator(pulled))

        solved = self.moment.solve(probe_key, product, to_vector(residual), std**2)
        score = pull_back(operator.adjoint(from_vector(solved, residual)))
        noise = standard_normal(reverse_key, state)
        proposal = self.reverse.advance(state, estimate, now, next, noise)
        gamma = self.reverse.guidance_coefficient(now, next)
        num_vjps = self.moment.num_products(vector_size(residual)) + 1
        trace = StepTrace(
            misfit=problem.misfit(estimate.x0_hat), calls=Calls(fwd=1, vjp=num_vjps)
        )
        return proposal + gamma * score, trace
