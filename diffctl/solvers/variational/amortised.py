"""Solvers whose work was done in training, on pairs (x0, y) drawn beforehand.

1. regression              x = h(f(y)),               h minimises E |h(f(y)) - x0|^2
2. conditional flow        x = g(z; f(y)),            g minimises -E log q(x0 | f(y))
3. conditional diffusion   reverse steps with         D minimises the denoising loss of
                           D(x, sigma; f(y)),         x0 + sigma eps, given f(y)

(1) tends to the posterior mean, (2) and (3) to posterior samples. All hold for the
operator and the noise level of the training, and for others only if those were varied
there and f says which it is.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from diffctl.core import (
    AmortisedEstimator,
    AmortisedSampler,
    Calls,
    ConditionalDiffusion,
    StepTrace,
)
from diffctl.diffusion import Ancestral, OneCallStep
from diffctl.numerics.normal import standard_normal
from diffctl.operators.base import Operator, Problem
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.generative.starts import float_dtype
from diffctl.solvers.iterations import IterativeSolver
from diffctl.solvers.levels import LevelSolver
from diffctl.solvers.requirements import linear

Features = Callable[[Problem], jax.Array]


def pinv_features(problem: Problem) -> jax.Array:
    """Return A^+ y, an image; for linear operators."""
    return linear(problem).pinv(problem.y)


def measurement_features(problem: Problem) -> jax.Array:
    """Return y itself, for measurements that are one array."""
    return problem.y


@pytree_dataclass
class Amortised(IterativeSolver):
    """A solver of one network call.

    Args:
        features: what the network is given of a problem; as in its training.
    """

    num_steps: int = static(default=1)
    features: Features = static(default=pinv_features)

    def start(self, key: jax.Array, problem: Problem, prior: Any) -> jax.Array:
        return jnp.zeros(prior.shape, float_dtype(problem, prior))

    def finalize(self, carry: jax.Array, problem: Problem, prior: Any) -> jax.Array:
        return carry


@pytree_dataclass
class AmortisedMean(Amortised):
    """The posterior mean by a network trained for it: (1).

    Neither the mode nor a sample: where the posterior is wide, the mean is blurred.

    Requirements: the operator and noise of the training. Cost: 1 forward.
    """

    requires: ClassVar[tuple[type, type]] = (Operator, AmortisedEstimator)
    cost_formula: ClassVar[str] = "1 fwd"
    reference: ClassVar[str] = (
        "Jin et al., Deep convolutional neural network for inverse problems in "
        "imaging, IEEE TIP 2017"
    )

    def step(
        self, carry: jax.Array, x: Any, problem: Problem, prior: AmortisedEstimator
    ) -> tuple[jax.Array, StepTrace]:
        estimate = prior.estimate(self.features(problem))
        trace = StepTrace(misfit=problem.misfit(estimate), calls=Calls(fwd=1))
        return estimate, trace


@pytree_dataclass
class AmortisedSample(Amortised):
    """A posterior sample by a conditional flow: (2).

    Requirements: the operator and noise of the training. Cost: 1 forward.
    """

    requires: ClassVar[tuple[type, type]] = (Operator, AmortisedSampler)
    cost_formula: ClassVar[str] = "1 fwd"
    reference: ClassVar[str] = (
        "Ardizzone et al., Guided image generation with conditional invertible neural "
        "networks, 2019"
    )

    def step(
        self, carry: jax.Array, x: Any, problem: Problem, prior: AmortisedSampler
    ) -> tuple[jax.Array, StepTrace]:
        z = jax.random.normal(x, prior.latent_shape, carry.dtype)
        draw = prior.decode_given(z, self.features(problem))
        return draw, StepTrace(misfit=problem.misfit(draw), calls=Calls(fwd=1))


@pytree_dataclass
class ConditionalSampling(LevelSolver):
    """A posterior sample by a diffusion that was trained with the measurement: (3).

    Requirements: the operator and noise of the training. Cost: T forwards.

    Args:
        grid: noise levels, T steps.
        reverse: one-call reverse step.
        features: what the network is given of a problem; as in its training.
    """

    requires: ClassVar[tuple[type, type]] = (Operator, ConditionalDiffusion)
    cost_formula: ClassVar[str] = "T fwd"
    reference: ClassVar[str] = (
        "Saharia et al., Image super-resolution via iterative refinement, 2021"
    )

    reverse: OneCallStep = Ancestral()
    features: Features = static(default=pinv_features)

    def step(
        self, carry: jax.Array, x: Any, problem: Problem, prior: ConditionalDiffusion
    ) -> tuple[jax.Array, StepTrace]:
        now, next, key = x
        denoiser = prior.given(self.features(problem))
        estimate = self.reverse.estimate(denoiser, carry, now)
        noise = standard_normal(key, carry)
        moved = self.reverse.advance(carry, estimate, now, next, noise)
        misfit = problem.misfit(estimate.x0_hat)
        return moved, StepTrace(misfit=misfit, calls=Calls(fwd=1))
