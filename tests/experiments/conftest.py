"""A row so small that an experiment runs in seconds."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.diffusion import ddpm
from diffctl.metrics import psnr
from diffctl.operators import DenseMatrix, GaussianNoise, Problem, simulate
from diffctl.priors import GaussianPrior
from diffctl.solvers import DPS
from experiments.common import Examples, Row
from experiments.common.solving import MEASURED

SIZE, LEVELS = 4, 3


@pytest.fixture(autouse=True)
def _leave_the_cache_alone(monkeypatch, tmp_path):
    """The command configures JAX's cache for its process; tests share theirs."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "xla"))


def pose(prior: GaussianPrior, ids: np.ndarray) -> Examples:
    operator = DenseMatrix.from_array(jnp.eye(SIZE)[:2])
    noise = GaussianNoise(std=0.1)

    def draw(i):
        key = jax.random.fold_in(jax.random.key(7), i)
        truth = prior.sample(key)
        return truth, simulate(key, operator, noise, truth)

    truth, y = jax.vmap(draw)(jnp.asarray(ids))
    return Examples(
        problems=Problem(y=y, operator=operator, noise=noise),
        axes=MEASURED,
        score=lambda x: {"psnr": jax.vmap(psnr)(x, truth)},
    )


@pytest.fixture
def row() -> Row:
    prior = GaussianPrior.from_moments(np.zeros(SIZE), 0.1 * np.eye(SIZE))
    return Row(
        labels={"task": "first_two", "solver": "dps"},
        prior=prior,
        solver=DPS(grid=ddpm(LEVELS)),
        examples=partial(pose, prior),
        settings={"noise_std": 0.1},
    )
