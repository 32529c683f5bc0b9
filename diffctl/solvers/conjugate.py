"""Conjugate integrator of the guided probability-flow ODE, for very few steps.

The ODE of PiGDM with guidance weight w r^2 / (1 + sigma^2), r^2 = sigma^2/(1+sigma^2),
is linear in x but for the network's eps_hat. The linear part is solved exactly; what is
left is integrated with eps_hat held fixed. From time t, level sigma, to t', sigma':

1. b = log(1 + sigma^2)
2. Psi_i(b), how much data a direction i has seen (see the three solvers),
   0 where nothing is measured
3. E_i(b*) = exp(tilt (t* - t') - w (Psi_i(b*) - Psi_i(b')) / 2),   E_i = E_i(b)
4. x_i = on_x0 D_i + on_y y_i + on_eps eps_i + on_g g_i  with  span = t - t'  and
   on_x0  = (1 - tilt span) E_i
   on_y   = 1 - E_i + tilt int E_i dt*
   on_eps = sigma' - tilt span E_i sigma + tilt int E_i sigma* dt*
   on_g   = - w int E_i tanh(u*)^2 du*,    sigma = sinh(u)
5. g = (d eps_hat / d x_vp)^T pull, pull the data's part of the residual y - D, and
   x_vp = x / sqrt(1 + sigma^2): one VJP

The integrals are over the step, by Gauss-Legendre quadrature in u, in which all of them
are smooth down to the clean level. For tilt = 0 only that of on_g is needed.
"""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.core import Calls, DiffusionPrior, StepTrace
from diffctl.diffusion import (
    DDPM,
    VE,
    VP,
    Euler,
    NoiseGrid,
    NoiseLevel,
    OneCallStep,
    Schedule,
)
from diffctl.diffusion.schedules import require_levels
from diffctl.operators.base import Problem
from diffctl.pytree import pytree_dataclass
from diffctl.solvers.levels import Levels, LevelSolver, estimate_with_pullback

# Data seen by the directions at levels sigma (n, 1): (n, k), or (n, 1) for one k.
Psi = Callable[[jax.Array], jax.Array]
_NUM_NODES = 32


@pytree_dataclass
class Coefficients:
    """The weights of (4), (k,) each."""

    on_x0: jax.Array
    on_y: jax.Array
    on_eps: jax.Array
    on_g: jax.Array


@pytree_dataclass
class Parts:
    """What a step is made of, (*shape) each."""

    x0_hat: jax.Array
    eps: jax.Array
    g: jax.Array

    def combine(self, weights: Coefficients) -> jax.Array:
        """Return the sum of (4) without y, for weights of one direction, (1,)."""
        scalar = jax.tree.map(jnp.squeeze, weights)
        found = scalar.on_x0 * self.x0_hat + scalar.on_eps * self.eps
        return found + scalar.on_g * self.g


def few_steps(
    num_steps: int, time_max: float = 0.4, time_min: float = 1e-3
) -> NoiseGrid:
    """Return `num_steps` levels, equally spaced in VP time from `time_max`, then clean.

    The published grid has `time_min` (sigma = 0.0105) as its last level, which here is
    the clean one, so that no more network calls are spent.
    """
    times = np.linspace(time_max, time_min, num_steps + 1)[:-1]
    return NoiseGrid.from_times(times, VP())


def unmeasured(sigma: jax.Array) -> jax.Array:
    """Return Psi = 0: no data."""
    return jnp.zeros_like(sigma)


def exactly_measured(sigma: jax.Array) -> jax.Array:
    """Return Psi = b: data without noise."""
    return jnp.log1p(sigma**2)


@pytree_dataclass
class ConjugateGuidance(LevelSolver):
    """Few-step integration of the guided flow; subclasses say what was measured.

    Args:
        grid: noise levels, T steps; `few_steps` are the published ones.
        guidance_scale: w, ().
        tilt: lambda of the paper, (); not 0 rescales the network's terms.
        schedule: gives the times t of levels; only `tilt` depends on it. Not `VE`,
            which has no time for the clean level.
        reverse: its estimate is used, with its bound inside the gradient.
    """

    cost_formula: ClassVar[str] = "T fwd + T VJP"
    reference: ClassVar[str] = (
        "Pandey et al., Fast Samplers for Inverse Problems in Iterative Refinement "
        "Models, NeurIPS 2024"
    )

    guidance_scale: Any = 1.0
    tilt: Any = 0.0
    schedule: Schedule = VP()
    reverse: OneCallStep = Euler()

    @abc.abstractmethod
    def first_guess(self, problem: Problem) -> jax.Array:
        """Return a signal made of the measurement alone, (*shape)."""

    @abc.abstractmethod
    def pull(self, problem: Problem, x0_hat: jax.Array, sigma: jax.Array) -> jax.Array:
        """Return the data's part of y - D, (*shape)."""

    @abc.abstractmethod
    def measured_change(
        self, problem: Problem, parts: Parts, levels: Levels
    ) -> jax.Array:
        """Return what measured directions add to the unmeasured step, (*shape)."""

    def check(self, problem: Problem, prior: DiffusionPrior) -> None:
        """Refuse a schedule without the clean level, or without one of the grid's."""
        if isinstance(self.schedule, VE):
            raise TypeError(
                f"{type(self).__name__} needs the time of the clean level, which VE "
                "does not have. Use VP() or EDM()."
            )
        tilted = isinstance(self.tilt, jax.core.Tracer) or np.any(np.asarray(self.tilt))
        if isinstance(self.schedule, DDPM) and tilted:
            # Traced, it would give all levels beyond the last the time of that one.
            require_levels(self.schedule, self.grid.sigma)
        super().check(problem, prior)

    def start(
        self, noise: jax.Array, problem: Problem, prior: DiffusionPrior
    ) -> jax.Array:
        return self.first_guess(problem) + self.grid.sigma[0] * noise

    def step(
        self, carry: jax.Array, x: Any, problem: Problem, prior: DiffusionPrior
    ) -> tuple[jax.Array, StepTrace]:
        state, (now, next, _) = carry, x
        estimate, pull_back = estimate_with_pullback(self.reverse, prior, state, now)
        x0_hat = estimate.x0_hat
        pull = self.pull(problem, x0_hat, now.sigma)
        # d eps_hat / dx = (I - J) / sigma, and x = sqrt(1 + sigma^2) x_vp.
        to_vp = jnp.sqrt(1 + now.sigma**2) / now.sigma
        parts = Parts(
            x0_hat=x0_hat,
            eps=(state - x0_hat) / now.sigma,
            g=to_vp * (pull - pull_back(pull)),
        )

        free = self.coefficients(unmeasured, now, next)
        moved = parts.combine(free) + self.measured_change(problem, parts, (now, next))
        trace = StepTrace(misfit=problem.misfit(x0_hat), calls=Calls(fwd=1, vjp=1))
        return moved, trace

    def coefficients(self, psi: Psi, now: NoiseLevel, next: NoiseLevel) -> Coefficients:
        """Return the weights of (4) for a step, by (3) and quadrature."""
        weight, tilt = self.guidance_scale, self.tilt
        first, last = self.schedule.time(now.sigma), self.schedule.time(next.sigma)
        span = first - last

        def decay(sigma: jax.Array, time: jax.Array) -> jax.Array:
            seen = psi(sigma) - psi(next.sigma[None, None])
            return jnp.exp(tilt * (time - last) - weight * seen / 2)

        u, measure = nodes_between(jnp.arcsinh(next.sigma), jnp.arcsinh(now.sigma))
        sigma, tanh = jnp.sinh(u), jnp.tanh(u)
        time = self.schedule.time(sigma)
        inside = decay(sigma, time) * measure
        in_time = inside * 2 * tanh / self._rate(time)  # dt = db / (db/dt)
        end = decay(now.sigma[None, None], first)[0]
        return Coefficients(
            on_x0=(1 - tilt * span) * end,
            on_y=1 - end + tilt * jnp.sum(in_time, 0),
            on_eps=next.sigma
            - tilt * span * end * now.sigma
            + tilt * jnp.sum(in_time * sigma, 0),
            on_g=-weight * jnp.sum(inside * tanh**2, 0),
        )

    def extra(self, psi: Psi, now: NoiseLevel, next: NoiseLevel) -> Coefficients:
        """Return the weights of (4), less those of unmeasured directions."""
        weights = self.coefficients(psi, now, next)
        free = self.coefficients(unmeasured, now, next)
        return jax.tree.map(jnp.subtract, weights, free)

    def _rate(self, time: jax.Array) -> jax.Array:
        """Return db/dt, (n, 1), which is beta for `VP`."""
        sigma, scale = self.schedule.sigma(time), self.schedule.scale(time)
        return self.schedule.diffusion_squared(time) / (scale**2 * (1 + sigma**2))


def nodes_between(low: jax.Array, high: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the nodes in [low, high] and their weights, (n, 1) each."""
    nodes, weights = np.polynomial.legendre.leggauss(_NUM_NODES)
    half = (high - low) / 2
    at = low + half * (1 + jnp.asarray(nodes, low.dtype))
    return at[:, None], (half * jnp.asarray(weights, low.dtype))[:, None]
