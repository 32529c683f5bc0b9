"""A Gaussian mixture measured by a random matrix: everything is known exactly."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.metrics import psnr
from diffctl.operators import DenseMatrix, GaussianNoise, Problem, simulate
from diffctl.priors import GaussianMixturePrior
from experiments.common.restoration import relative_misfit
from experiments.common.solving import MEASURED, Examples

_SIZE, _MEASURED, _COMPONENTS = 16, 6, 8


def mixture_prior() -> GaussianMixturePrior:
    """Return eight components of standard deviation about 0.1 in 16 dimensions."""
    rng = np.random.default_rng(0)
    means = rng.uniform(-0.7, 0.7, (_COMPONENTS, _SIZE))
    roots = 0.1 * rng.normal(size=(_COMPONENTS, _SIZE, _SIZE)) / np.sqrt(_SIZE)
    covariances = roots @ roots.swapaxes(1, 2)
    return GaussianMixturePrior.from_moments(
        np.ones(_COMPONENTS), means, (covariances + covariances.swapaxes(1, 2)) / 2
    )


def matrix() -> np.ndarray:
    """Return the matrix, (6, 16), with rows of norm about 1."""
    rng = np.random.default_rng(1)
    return rng.normal(size=(_MEASURED, _SIZE)) / np.sqrt(_SIZE)


@dataclass(frozen=True)
class MixtureProblems:
    """Signals drawn from the prior and their measurements.

    Attributes:
        prior: of the signals.
        noise_std: on the [-1, 1] scale.
        key: signal i is drawn and measured with fold_in(key, i).
    """

    prior: GaussianMixturePrior
    noise_std: float
    key: jax.Array

    def __call__(self, ids: np.ndarray) -> Examples:
        """Return the problems of the signals `ids`."""
        operator = DenseMatrix.from_array(jnp.asarray(matrix()))
        noise = GaussianNoise(std=self.noise_std)

        def draw(i: jax.Array) -> tuple[jax.Array, jax.Array]:
            signal_key, noise_key = jax.random.split(jax.random.fold_in(self.key, i))
            truth = self.prior.sample(signal_key)
            return truth, simulate(noise_key, operator, noise, truth)

        truth, y = jax.jit(jax.vmap(draw))(jnp.asarray(ids))
        problems = Problem(y=y, operator=operator, noise=noise)
        score = partial(_score, self.prior, self.noise_std, problems, truth)
        return Examples(problems=problems, axes=MEASURED, score=score)


@jax.jit
def _score(
    prior: GaussianMixturePrior,
    noise_std: jax.Array,
    problems: Problem,
    truth: jax.Array,
    x: jax.Array,
) -> dict[str, jax.Array]:
    known = jnp.asarray(matrix())

    def one(problem: Problem, truth: Any, x: Any) -> dict[str, jax.Array]:
        best = prior.posterior(problem.y, known, noise_std).moments()[0]
        return {
            "psnr": psnr(x, truth),
            "misfit": relative_misfit(problem, x),
            "psnr_posterior_mean": psnr(best, truth),
        }

    return jax.vmap(one, in_axes=(MEASURED, 0, 0))(problems, truth, x)
