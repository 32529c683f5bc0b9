"""The released code's default behaviour, written again from its description."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffctl.solvers import DOC, doc_presets, solve
from tests.contract.cases import doc_released
from tests.solvers.bed import SIZE, bed, mixture
from tests.tolerances import EXACT64

KEY = jax.random.key(9)
RESPACED = [
    0, 53, 105, 158, 210, 263, 315, 368, 421, 473,
    526, 578, 631, 684, 736, 789, 841, 894, 946, 999,
]  # fmt: skip
NUM_LEVELS, TASK = 6, "random_inpainting"


def _keep_controls(carry, trace):
    return carry.iteration.trajectory.controls


def test_the_noisiest_level_is_skipped():
    timesteps = np.asarray(DOC.released_code(TASK).grid.time)
    assert timesteps.tolist() == [*RESPACED[18::-1], -1]


def test_golden_control_weights():
    short, long = (doc_presets.released_weights(n, 1e-6) for n in (20, 50))
    assert short.shape == (19,)
    ends = [short[0], short[-1], long[0], long[-1]]
    # The public code forms 1 - alpha in float32; measured difference: 9e-6.
    golden = [2.80560e-3, 1.17823e-2, 1.75350e-2, 1.09990e-1]
    np.testing.assert_allclose(ends, golden, rtol=2e-5)


@pytest.mark.usefixtures("x64")
def test_it_is_adamw_on_the_summed_objective():
    """Against the ancestral chain of the VP coordinate and `jax.grad` of all of it."""
    solver = doc_released(NUM_LEVELS, num_steps=3)
    problem, prior = bed().problem(), mixture()
    solution = solve(KEY, problem, prior, solver, record=_keep_controls)

    objective = _objective(problem, prior)
    optimizer = optax.adamw(5e-3, weight_decay=0.01)
    weights = _weights()
    controls = jnp.zeros((NUM_LEVELS - 1, SIZE))
    state = optimizer.init(controls)
    gradient_of = jax.jit(jax.grad(objective))
    for i in range(3):
        # Adam is invariant to this scaling but for its epsilon.
        gradient = gradient_of(controls) / (weights + 1e-3)[:, None]
        updates, state = optimizer.update(gradient, state, controls)
        controls = optax.apply_updates(controls, updates)
        chex.assert_trees_all_close(solution.trace[i], controls, **EXACT64)
        if i == 0:
            steps = jnp.abs(controls)
            moved = steps > 0  # clipped pixels have no gradient at the last step
            assert jnp.mean(moved) > 0.5
            np.testing.assert_allclose(steps[moved], 5e-3, rtol=1e-5)


def _weights():
    times = np.linspace(1, 1e-3, NUM_LEVELS)[:-1]
    alphas = 1 - np.linspace(1e-4, 2e-2, 1000)[(999 * times).astype(int)]
    signal_to_noise = np.sqrt(alphas) / np.sqrt(1 - alphas + 1e-7)
    step = (1 - 1e-3) / NUM_LEVELS
    return jnp.asarray(1e-6 * signal_to_noise / step**2)


def _objective(problem, prior):
    """|A x0 - y| + sum w |u|^2 / 2 of a clipped ancestral chain with frozen noise."""
    timesteps = np.rint(np.linspace(0, 999, NUM_LEVELS)).astype(int)
    alphas_cumprod = np.cumprod(1 - np.linspace(1e-4, 2e-2, 1000))[timesteps]
    start_key, noise_key, _ = jax.random.split(KEY, 3)
    start = jax.random.normal(start_key, (SIZE,))
    noise = jax.random.normal(noise_key, (NUM_LEVELS - 1, SIZE))

    def step(x, level, z):
        now, before = alphas_cumprod[level], np.r_[1.0, alphas_cumprod][level]
        beta = 1 - now / before
        x0_hat = prior.denoise(x / np.sqrt(now), np.sqrt((1 - now) / now))
        on_x0 = np.sqrt(before) * beta / (1 - now)
        on_x = np.sqrt(now / before) * (1 - before) / (1 - now)
        std = np.sqrt(beta * (1 - before) / (1 - now))
        return on_x0 * jnp.clip(x0_hat, -1, 1) + on_x * x + std * z

    def objective(controls):
        x = start
        for i, level in enumerate(range(NUM_LEVELS - 2, -1, -1)):
            x = step(x + controls[i], level, noise[i])
        running = jnp.sum(_weights()[:, None] * controls**2) / 2
        return jnp.linalg.norm(problem.operator(x) - problem.y) + running

    return objective


def test_presets_are_the_published_numbers():
    paper = DOC.paper("box_inpainting")
    assert (paper.grid.num_steps, paper.num_steps) == (50, 100)
    assert DOC.paper("super_resolution_x4").num_steps == 50
    assert paper.control_weight == 1e-4
    assert paper.optimizer.update.hyperparams == {"learning_rate": 1e-3}
    assert paper.optimizer.update.damping == 1e-4
    assert paper.optimizer.backward.terminal.rank == 1

    released = DOC.released_code("gaussian_deblurring")
    assert (released.grid.num_steps, released.num_steps) == (19, 50)
    assert released.optimizer.update.hyperparams["learning_rate"] == 1e-2
    assert released.optimizer.update.hyperparams["weight_decay"] == 0.01
    expected = 10 * doc_presets.released_weights(20, 1e-6)
    np.testing.assert_allclose(released.control_weight, expected, rtol=1e-6)
    for preset in (DOC.paper, DOC.released_code):
        with pytest.raises(ValueError, match="did you mean 'motion_deblurring'"):
            preset("motion_deblur")


def test_presets_are_ordinary_settings():
    assert dataclasses.replace(DOC.released_code(TASK), num_steps=2).num_steps == 2
