"""The theorems of diffusion optimal control, stated as they are true."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.control import (
    AdjointBackward,
    ComposedCost,
    ControlEnergy,
    ControlProblem,
    GaussianLoss,
    LineSearch,
    LowRankBackward,
    Recompute,
    Trajectory,
    TrajectoryOptimizer,
    adjoint_pass,
    input_control,
    optimize,
    output_control,
    rollout,
)
from tests.control.fixture_problem import load, mixture, mixture_score, paths_with
from tests.fixture_files import fixture_ids
from tests.tolerances import EXACT64

MODES = {"input": input_control, "output": output_control}
PATHS = paths_with("coef_score")


def smooth_step(i, x):
    return x + 0.3 * jnp.sin(x + 0.5 * i) + 0.1 * jnp.roll(x, 1)


@partial(jax.jit, static_argnames="mode")
def converge(x_init, mode):
    problem = ControlProblem(
        dynamics=MODES[mode](smooth_step),
        running_cost=ControlEnergy(weight=jnp.asarray([0.5, 1.0, 2.0, 0.7])),
        terminal_cost=ComposedCost(
            map=lambda x: jnp.tanh(x[:2]) - 0.5, loss=GaussianLoss(std=0.4)
        ),
    )
    method = TrajectoryOptimizer(
        backward=LowRankBackward(),
        update=LineSearch(damping=1e-3, sufficient_decrease=0.0),
    )
    controls = jnp.zeros((4, 3))
    state, _ = optimize(problem, method, x_init, controls, jax.random.key(0), 40)
    gradient, _ = adjoint_pass(problem, Recompute(), state.trajectory)

    def log_likelihood(i, x):
        """Return log p(y | x_N) through the controlled rollout from x_i on."""

        def step(x, at):
            n, u = at
            return jnp.where(n < i, x, problem.dynamics(n, x, u)), None

        return -problem.terminal_cost(
            jax.lax.scan(step, x, (jnp.arange(4), state.trajectory.controls))[0]
        )

    score = jax.vmap(jax.grad(log_likelihood, argnums=1))
    return state.trajectory, gradient, score(jnp.arange(5), state.trajectory.states)


@pytest.mark.parametrize("mode", MODES)
def test_theorem_c_stationary_controls_are_scaled_likelihood_gradients(mode):
    """u_i = grad log p(y | x0) / w_i, at x_{i+1} (output) or at x_i + u_i (input)."""
    x_init = jnp.asarray([0.4, -1.0, 0.3])
    trajectory, gradient, score = converge(x_init, mode)
    # A strict decrease of the cost cannot be seen below a gradient of sqrt(epsilon);
    # measured 1.3e-8.
    assert np.max(np.abs(gradient)) < 1e-7
    weight = np.array([0.5, 1.0, 2.0, 0.7])[:, None]
    # In input mode x_i enters only as x_i + u_i: the gradients at both agree.
    at = score[1:] if mode == "output" else score[:-1]
    np.testing.assert_allclose(trajectory.controls, at / weight, rtol=0, atol=3e-7)
    assert np.max(np.abs(trajectory.controls)) > 0.05


def test_input_and_output_control_reach_the_same_states():
    x_init = jnp.asarray([0.4, -1.0, 0.3])
    controls = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
    states = rollout(input_control(smooth_step), x_init, controls)
    steps = jnp.arange(4)
    equivalent = jax.vmap(lambda i, x, u: smooth_step(i, x + u) - smooth_step(i, x))(
        steps, states[:-1], controls
    )
    found = rollout(output_control(smooth_step), x_init, equivalent)
    np.testing.assert_allclose(found, states, **EXACT64)


def test_corrected_theorem_4_3_input_control_is_predictor_corrector():
    """x~_i = x_i + u_i obeys x~_{i+1} = step(x~_i) + u_{i+1}."""
    x_init = jnp.asarray([0.4, -1.0, 0.3])
    controls = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)))
    states = rollout(input_control(smooth_step), x_init, controls)
    moved = states[:-1] + controls
    predicted = jax.vmap(smooth_step)(jnp.arange(3), moved[:-1])
    np.testing.assert_allclose(moved[1:], predicted + controls[1:], **EXACT64)


@pytest.mark.parametrize("path", PATHS, ids=fixture_ids(PATHS))
def test_guided_step_is_the_step_plus_gamma_times_the_guidance(path):
    """Replacing score by score + G moves the next state by coef_score * G."""
    f = load(path)
    if str(f["sampler"]) == "pf_euler":
        gamma = 0.5 * f["beta"] * f["dt"]  # g^2 dt / 2, half of what is printed
    else:
        ab, ab_next = f["alphabar"], f["alphabar_next"]
        sigma, sigma_next = np.sqrt((1 - ab) / ab), np.sqrt((1 - ab_next) / ab_next)
        gamma = np.sqrt(ab_next) * np.sqrt(1 - ab) * (sigma - sigma_next)
    np.testing.assert_allclose(f["coef_score"], gamma, rtol=1e-9)

    levels = mixture(f, f["level_scale"], f["level_var"])
    level = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), levels)
    x = jnp.asarray(f["x_init"])
    guidance = jnp.ones_like(x)
    score = mixture_score(level, x)
    c1, c2 = f["coef_state"][0], f["coef_score"][0]
    plain, guided = c1 * x + c2 * score, c1 * x + c2 * (score + guidance)
    np.testing.assert_allclose(guided - plain, gamma[0] * guidance, rtol=1e-6)


# The counter-example to posterior sampling: prior N(0, 1), y = x0 + noise, VE.
NOISE, MEASUREMENT, SIGMA_MAX = 0.7, 1.3, 5.0


@partial(jax.jit, static_argnames="num_steps")
def receding_horizon(start, strength, num_steps):
    """Sample with the control of the lemma, recomputed at the state reached.

    Each step takes the first control of the first-order method around the uncontrolled
    rollout from the current state, with damping 1 / (strength * gamma_i).
    """
    sigma = jnp.append(jnp.geomspace(SIGMA_MAX, 0.02, num_steps), 0.0)
    gamma = (sigma[:-1] - sigma[1:]) * sigma[:-1]

    def ddim(i, x):
        denoised = x / (1 + jnp.square(sigma[i]))
        return denoised + sigma[i + 1] / sigma[i] * (x - denoised)

    problem = ControlProblem(
        dynamics=output_control(ddim),
        running_cost=ControlEnergy(weight=jnp.zeros(num_steps)),
        terminal_cost=ComposedCost(
            map=lambda x: x - MEASUREMENT, loss=GaussianLoss(std=NOISE)
        ),
    )

    def step(x, first):
        # Steps before `first` are over: the rollout to come starts at x.
        dynamics = output_control(lambda i, z: jnp.where(i < first, z, ddim(i, z)))
        ahead = ControlProblem(
            dynamics=dynamics,
            running_cost=problem.running_cost,
            terminal_cost=problem.terminal_cost,
        )
        controls = jnp.zeros((num_steps, 1))
        states = rollout(dynamics, x, controls)
        policy = AdjointBackward()(
            ahead,
            Recompute(),
            Trajectory(states=states, controls=controls),
            1 / (strength * gamma),
            jax.random.key(0),
        )
        return problem.dynamics(first, x, policy.gains.feedforward[first]), None

    return jax.lax.scan(step, start, jnp.arange(num_steps))[0]


@pytest.mark.parametrize("strength", [1.0, 2.0], ids=["corrected", "as printed"])
def test_corrected_lemma_is_not_posterior_sampling(strength):
    """The samples collapse on the measurement: y + (z - y) (1 + s^2)^(-strength / 2 k).

    k is the noise variance. The printed weight is twice the corrected one.
    """
    scale = np.sqrt(1 + SIGMA_MAX**2)
    exponents = []
    for num_steps in (120, 240):
        ends = [
            float(receding_horizon(jnp.asarray([scale * z]), strength, num_steps)[0])
            for z in (0.0, 1.0)
        ]
        exponents.append(np.log(ends[1] - ends[0]))
    predicted = -strength / (2 * NOISE**2) * np.log(1 + SIGMA_MAX**2)
    # First order in the step size, so one extrapolation leaves the second.
    extrapolated = 2 * exponents[1] - exponents[0]
    np.testing.assert_allclose(extrapolated, predicted, rtol=0.02)
    slope = np.exp(predicted)
    offset = MEASUREMENT * (1 - slope)
    np.testing.assert_allclose(ends[0], offset, rtol=0.02)
    posterior_mean = MEASUREMENT / (1 + NOISE**2)
    posterior_var = NOISE**2 / (1 + NOISE**2)
    assert abs(offset - posterior_mean) > 0.3
    assert slope**2 < 0.01 * posterior_var
