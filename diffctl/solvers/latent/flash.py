"""Flash-Diffusion: start the reverse process where the measurement already is.

A severity encoder maps y to a rough latent z_hat and the variance v of its error.

1. start level   the i that minimises |1 / sigma_i^2 - 1 / v|
2. start         z_i = sqrt(1 + sigma_i^2) (sqrt(1 - c v) z_hat + sqrt(c v) eps)
3. from there    the steps of any latent solver
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from diffctl.core import Calls, SeverityPrior, StepTrace
from diffctl.diffusion import Ancestral, NoiseGrid
from diffctl.numerics import computed_where
from diffctl.numerics.normal import standard_normal
from diffctl.operators.base import Operator, Problem
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.latent.base import LatentSolver
from diffctl.solvers.latent.guided import GMLDPS, LDPS, GuidedLatent
from diffctl.solvers.latent.psld import PSLD
from diffctl.solvers.latent.resample import ReSample
from diffctl.solvers.requirements import check_inner
from diffctl.solvers.tasks import for_task

Start = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]

LARGEST_VARIANCE = 0.999  # c v is the share of a unit variance


def start_level(sigma: jax.Array, variance: jax.Array) -> jax.Array:
    """Return the index () of (1) among levels `sigma` (T,), noisiest first."""
    return jnp.argmin(jnp.abs(1 / sigma**2 - 1 / variance))


def noised_start(
    latent: jax.Array, variance: jax.Array, sigma: jax.Array, noise: jax.Array
) -> jax.Array:
    """Return (2), in canonical coordinates; c v is limited to stay below 1.

    For errors that are not white, which the noise hides. Relative to the signal the
    state has the variance v + c v / (1 - c v), about twice that of the level.
    """
    share = jnp.minimum(variance, LARGEST_VARIANCE)
    mixed = jnp.sqrt(1 - share) * latent + jnp.sqrt(share) * noise
    return jnp.sqrt(1 + sigma**2) * mixed


def bare_start(
    latent: jax.Array, variance: jax.Array, sigma: jax.Array, noise: jax.Array
) -> jax.Array:
    """Return z_hat itself: exact if its error is white, of the level's variance."""
    return latent


def unscaled_start(
    latent: jax.Array, variance: jax.Array, sigma: jax.Array, noise: jax.Array
) -> jax.Array:
    """Return z_hat taken for a variance-preserving state, as the code does without c.

    The signal is then sqrt(1 + sigma^2) times too large.
    """
    return jnp.sqrt(1 + sigma**2) * latent


class FlashCarry(NamedTuple):
    """A latent solver on its way, and where it started."""

    state: jax.Array  # (*latent.shape), at the start level until that is reached
    start: jax.Array  # () int, index of the start level
    misfit: jax.Array  # () of the rough latent


@pytree_dataclass
class FlashDiffusion(LatentSolver):
    """Flash-Diffusion (Fabian et al., ICML 2024): a latent solver, started late.

        i = level of the severity of y;   z_i = noised rough latent;   steps i, i+1, ..

    Requirements: those of `inner`, and a prior with a severity encoder, which knows y
    in the unit that it was trained in.

    Cost: that of the steps of `inner` from the start level on, one call of the severity
    encoder, one of the decoder. Steps before the start cost nothing when a problem is
    solved alone; in a batch (`solve_batch`, `vmap`) all steps are computed, and those
    before the start are thrown away; `ReSample` inside then fits in every step, and 16
    digits took 60 times as long per image as with `ReSample` alone. `Solution.stats`
    counts what was needed.

    Deviations from the authors' code (z-fabian/flash-diffusion): c v is limited to
    0.999; the first step is the one from the level that z is noised to, where the code
    leaves out one or two. That code can also start at DDIM inversions of z_hat, or at
    z_hat on a wrong scale (`unscaled_start`; `bare_start` has the right one).

    Args:
        inner: a latent solver; its own start is not used.
        correction: (), c >= 1 of (2). Levels are chosen without it.
        start: `(z_hat, c v, sigma, noise) -> z`.
    """

    requires: ClassVar[tuple[type, type]] = (Operator, SeverityPrior)
    cost_formula: ClassVar[str] = "that of the inner solver for the levels left"
    reference: ClassVar[str] = (
        "Fabian et al., Adapt and Diffuse: Sample-Adaptive Reconstruction via Latent "
        "Diffusion Models, ICML 2024"
    )

    inner: LatentSolver
    correction: Any = 1.0
    start: Start = static(default=noised_start)

    @classmethod
    def released_ldps(cls, task: str, grid: NoiseGrid) -> "FlashDiffusion":
        """Return the released settings with LDPS, meant for all 1000 levels."""
        return cls._released(LDPS, _LDPS, task, grid)

    @classmethod
    def released_gml_dps(cls, task: str, grid: NoiseGrid) -> "FlashDiffusion":
        """Return the released settings with GML-DPS, meant for all 1000 levels."""
        return cls._released(GMLDPS, _GML_DPS, task, grid)

    @classmethod
    def released_psld(cls, task: str, grid: NoiseGrid) -> "FlashDiffusion":
        """Return the released settings with PSLD, meant for all 1000 levels."""
        return cls._released(PSLD, _PSLD, task, grid)

    @classmethod
    def released_resample(cls, task: str, grid: NoiseGrid) -> "FlashDiffusion":
        """Return the released settings with ReSample, meant for 500 of 1000 levels.

        See `ReSample.flash_port`.
        """
        inner = ReSample.flash_port(grid, for_task(_RESAMPLE, task))
        return cls(inner=inner, correction=1.2)

    @classmethod
    def _released(
        cls,
        kind: type[GuidedLatent],
        settings: Mapping[str, tuple[dict[str, Any], float]],
        task: str,
        grid: NoiseGrid,
    ) -> "FlashDiffusion":
        scales, correction = for_task(settings, task)
        inner = kind(grid=grid, reverse=Ancestral(), **scales)
        return cls(inner=inner, correction=correction)

    def check(self, problem: Problem, prior: SeverityPrior) -> None:
        """Refuse what the inner solver refuses."""
        check_inner(problem, prior, self.inner)

    def init(
        self, key: jax.Array, problem: Problem, prior: SeverityPrior
    ) -> tuple[FlashCarry, Any]:
        noise_key, inner_key = jax.random.split(key)
        unused, xs = self.inner.init(inner_key, problem, prior)
        sigma = xs[0].sigma
        latent, variance = prior.estimate_latent(problem.y)
        start = start_level(sigma, variance)
        noise = standard_normal(noise_key, unused)
        state = self.start(latent, self.correction * variance, sigma[start], noise)
        misfit = problem.misfit(prior.decode(latent))
        indices = jnp.arange(sigma.shape[0], dtype=start.dtype)
        return FlashCarry(state, start, misfit), (indices, xs)

    def step(
        self, carry: FlashCarry, x: Any, problem: Problem, prior: SeverityPrior
    ) -> tuple[FlashCarry, StepTrace]:
        index, at = x

        def go() -> tuple[jax.Array, StepTrace]:
            moved, trace = self.inner.step(carry.state, at, problem, prior)
            return moved, _plain(trace.misfit, trace.calls)

        wait = carry.state, _plain(carry.misfit, Calls())
        state, trace = computed_where(index >= carry.start, go, wait)
        return carry._replace(state=state), trace

    def finalize(self, carry: FlashCarry, problem: Problem, prior: Any) -> jax.Array:
        return self.inner.finalize(carry.state, problem, prior)


def _plain(misfit: jax.Array, calls: Calls) -> StepTrace:
    """Return a trace whose counts are arrays, so that two branches agree."""
    return StepTrace(misfit=misfit, calls=jax.tree.map(jnp.int32, calls))


_LDPS: Mapping[str, tuple[dict[str, Any], float]] = {
    "gaussian_deblurring": ({"guidance_scale": 3.0}, 1.2),
    "gaussian_deblurring_varying": ({"guidance_scale": 1.0}, 1.2),
    "random_inpainting": ({"guidance_scale": 7.0}, 1.2),
    "nonlinear_deblurring": ({"guidance_scale": 1.0}, 1.0),
}
_GML_DPS: Mapping[str, tuple[dict[str, Any], float]] = {
    "gaussian_deblurring": ({"guidance_scale": 2.0, "gluing_scale": 0.05}, 1.0),
    "gaussian_deblurring_varying": (
        {"guidance_scale": 3.0, "gluing_scale": 0.05},
        1.2,
    ),
    "random_inpainting": ({"guidance_scale": 10.0, "gluing_scale": 0.05}, 1.0),
    "nonlinear_deblurring": ({"guidance_scale": 3.0, "gluing_scale": 0.05}, 1.2),
}
_PSLD: Mapping[str, tuple[dict[str, Any], float]] = {
    "gaussian_deblurring": ({"guidance_scale": 2.0, "gluing_scale": 0.1}, 1.0),
    "gaussian_deblurring_varying": ({"guidance_scale": 2.0, "gluing_scale": 0.2}, 1.0),
    "random_inpainting": ({"guidance_scale": 10.0, "gluing_scale": 0.5}, 1.0),
}
_RESAMPLE: Mapping[str, float] = {
    "gaussian_deblurring": 2000.0,
    "gaussian_deblurring_varying": 400.0,
    "random_inpainting": 200.0,
    "nonlinear_deblurring": 200.0,
}
