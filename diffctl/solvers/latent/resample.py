"""ReSample: hard consistency with the measurement on the way, then noising again.

At level sigma, sigma' the next, with encoder E and decoder D:

1. z' = guided reverse step (LDPS with a weak gradient)
2. every `every`-th step of the later part: a few unguided steps from z' give z0_hat,
   early (pixels)  u = argmin |y - A(u)|^2 from u = D(z0_hat),   z_c = E(u)
   late (latents)  z_c = argmin |y - A(D(z))|^2 from z = z0_hat
3. z ~ N(z; z_c, sigma'^2 I) N(z; z', r I), normalised, r = (1 + sigma'^2) * variance
4. at the end, the latent optimisation of (2) once more, then D

Optimisations stop improving once the mean squared residual is below a threshold.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffctl.core import Calls, EncodedPrior, StepTrace
from diffctl.diffusion import DDIM, Euler, NoiseGrid, NoiseLevel, OneCallStep
from diffctl.numerics.descent import Descent
from diffctl.numerics.normal import standard_normal
from diffctl.operators.base import Operator, Problem, WhiteNoise
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.latent.base import LatentSolver, latent_problem, scaled_linear_grid
from diffctl.solvers.latent.fit import Fit, released_threshold
from diffctl.solvers.latent.guided import LDPS, GuidedLatent
from diffctl.solvers.latent.resample_law import (
    ResampleVariance,
    paper_variance,
    released_variance,
    resample,
)
from diffctl.solvers.latent.slipped_euler import SlippedEuler
from diffctl.solvers.latent.stages import GUIDED_ONLY, Stages, by_index, later_thirds
from diffctl.solvers.requirements import check_inner


def released_unit(reverse: Any, now: NoiseLevel, next: NoiseLevel) -> jax.Array:
    """Return the unit of variance-preserving coordinates times a = 1 / (1 + sigma^2).

    With guidance_scale 1/2 it is the step of the released code.
    """
    return jnp.sqrt((1 + next.sigma**2) / (1 + now.sigma**2))


@pytree_dataclass
class ReSample(LatentSolver):
    """Hard data consistency and resampling (Song et al., ICLR 2024).

        z_c = point near D(z0_hat) or z0_hat that explains y
        z <- sample of N(z_c, sigma'^2 I) N(z', (1 + sigma'^2) gamma variance I)

    Requirements: any differentiable operator and white noise, at whose level the
    default fits stop.

    Cost: T forwards and T VJPs of the latent network for T levels, and `lookahead`
    forwards for each of the C consistent steps. Decoder: T calls and VJPs, and for each
    consistent step one call (pixels, and one of the encoder) or as many calls and VJPs
    as its fit has steps (latents), as once more at the end. All steps of a fit are
    computed, also after it stopped.

    Deviations: fits stop at the noise level and have no weight decay; the variance is
    that of the paper. `released_code` has the code's variance, decay and threshold
    (1e-6, which fits the noise) and its slip in Tweedie's formula (`SlippedEuler`), but
    neither its look-ahead steps that are shifted by one level, nor its rule to stop
    when the loss exceeds that of 200 steps earlier.

    Args:
        guided: grid, reverse step and gradient of (1).
        pixels: fit of an image.
        latents: fit of a latent.
        gamma: (), weight of the variance in (3); large values trust the fit.
        variance: `(now, next) -> ()`, in variance-preserving coordinates.
        stages: `(grid, every) -> (T,)`, what each step does.
        every: a consistent step whenever the number of steps left is a multiple of it.
        lookahead: unguided steps before a fit, at least 1.
        ahead: what they are, deterministic.
    """

    requires: ClassVar[tuple[type, type]] = (Operator, EncodedPrior)
    requires_noise: ClassVar[type] = WhiteNoise
    cost_formula: ClassVar[str] = (
        "(T + lookahead C) fwd + T VJP (C consistency steps; much of the decoder)"
    )
    reference: ClassVar[str] = (
        "Song et al., Solving Inverse Problems with Latent Diffusion Models via Hard "
        "Data Consistency, ICLR 2024"
    )

    guided: GuidedLatent
    pixels: Fit
    latents: Fit
    gamma: Any = 40.0
    variance: ResampleVariance = static(default=paper_variance)
    stages: Stages = static(default=later_thirds)
    every: int = static(default=10)
    lookahead: int = static(default=5)
    ahead: OneCallStep = Euler()

    @classmethod
    def default(cls, grid: NoiseGrid) -> "ReSample":
        """Return the released step sizes with fits that stop at the noise level."""
        return cls(
            guided=LDPS(grid=grid, guidance_scale=0.5, unit=released_unit),
            pixels=Fit(descent=Descent.adam(1e-2), num_steps=2000),
            latents=Fit(descent=Descent.adam(5e-3), num_steps=500),
        )

    @classmethod
    def released_code(cls, *, num_steps: int = 500) -> "ReSample":
        """Return the settings of the authors' code for the unconditional LDM."""

        def fit(step_size: float, num_steps: int) -> Fit:
            decay = {"learning_rate": step_size, "weight_decay": 0.01}
            descent = Descent(optimizer=optax.adamw, hyperparams=decay)
            return Fit(
                descent=descent, num_steps=num_steps, threshold=released_threshold
            )

        guided = LDPS(
            grid=scaled_linear_grid(num_steps, 0.0015, 0.0195),
            reverse=SlippedEuler(),
            guidance_scale=0.5,
            unit=released_unit,
        )
        return cls(
            guided=guided,
            pixels=fit(1e-2, 2000),
            latents=fit(5e-3, 500),
            variance=released_variance,
            ahead=SlippedEuler(),
        )

    @classmethod
    def flash_port(cls, grid: NoiseGrid, gamma: Any) -> "ReSample":
        """Return the settings of z-fabian/flash-diffusion, with its weight `gamma`.

        Its fits are held to where they start, and its steps are ancestral without a
        gradient (whose VJP is computed here all the same). Its variance has the beta of
        one of 1000 levels at whichever step, which `gamma` makes up for; its law mixes
        the levels before and after a step, and it fits the estimate before the step;
        ours do neither.
        """
        fit = Fit(descent=Descent.adam(0.1), num_steps=100, anchor=1.0)
        return cls(
            guided=LDPS(grid=grid, reverse=DDIM(eta=1.0), guidance_scale=0.0),
            pixels=fit,
            latents=fit,
            gamma=gamma * grid.num_steps / 1000,
            stages=by_index,
            lookahead=1,
        )

    def check(self, problem: Problem, prior: EncodedPrior) -> None:
        """Refuse what the guided solver refuses."""
        check_inner(problem, prior, self.guided)

    def init(
        self, key: jax.Array, problem: Problem, prior: EncodedPrior
    ) -> tuple[Any, Any]:
        grid = self.guided.grid
        carry, (now, next, keys) = self.guided.init(key, problem, prior)
        stages = self.stages(grid, self.every)
        return carry, (now, next, keys, stages, self._levels_ahead(grid))

    def step(
        self, carry: jax.Array, x: Any, problem: Problem, prior: EncodedPrior
    ) -> tuple[jax.Array, StepTrace]:
        now, next, key, stage, ahead = x
        guided_key, noise_key = jax.random.split(key)
        kept, trace = self.guided.step(carry, (now, next, guided_key), problem, prior)

        def consistent(find: Callable[[jax.Array], jax.Array]) -> jax.Array:
            found = find(self._look_ahead(kept, ahead, prior))
            r = (1 + next.sigma**2) * self.gamma * self.variance(now, next)
            noise = standard_normal(noise_key, kept)
            return resample(found, kept, (next.sigma**2, r), noise)

        def in_pixels(z: jax.Array) -> jax.Array:
            return prior.encode(self.pixels(problem, prior.decode(z)))

        def in_latents(z: jax.Array) -> jax.Array:
            return self.latents(latent_problem(problem, prior), z)

        moved = jax.lax.switch(
            stage,
            [
                lambda: kept,
                lambda: consistent(in_pixels),
                lambda: consistent(in_latents),
            ],
        )
        more = Calls(fwd=jnp.where(stage == GUIDED_ONLY, 0, self.lookahead))
        return moved, StepTrace(misfit=trace.misfit, calls=trace.calls + more)

    def finalize(
        self, carry: jax.Array, problem: Problem, prior: EncodedPrior
    ) -> jax.Array:
        return prior.decode(self.latents(latent_problem(problem, prior), carry))

    def _levels_ahead(self, grid: NoiseGrid) -> NoiseLevel:
        """Return the levels of the look-ahead of every step, (T, lookahead).

        Near the end the least noisy level is repeated, where a step moves nothing.
        """
        first = np.arange(1, grid.num_steps + 1)[:, None]
        index = first + np.arange(self.lookahead)[None, :]
        index = np.minimum(index, grid.num_steps - 1)
        levels = NoiseLevel(sigma=grid.sigma, scale=grid.scale, time=grid.time)
        return jax.tree.map(lambda leaf: leaf[index], levels)

    def _look_ahead(
        self, z: jax.Array, ahead: NoiseLevel, prior: EncodedPrior
    ) -> jax.Array:
        """Return the clean estimate at the end of unguided steps of the ODE."""
        after = jax.tree.map(lambda leaf: jnp.append(leaf[1:], leaf[-1:]), ahead)

        def body(state: Any, at: Any) -> tuple[Any, None]:
            z, _ = state
            now, next = at
            estimate = self.ahead.estimate(prior.latent, z, now)
            return (self.ahead.advance(z, estimate, now, next), estimate.x0_hat), None

        (_, x0_hat), _ = jax.lax.scan(body, (z, z), (ahead, after))
        return x0_hat
