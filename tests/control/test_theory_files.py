"""The sweeps over the regulariser, and every relation their README states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.control import (
    AdjointBackward,
    DenseBackward,
    Recompute,
    Trajectory,
    adjoint_pass,
    rollout,
)
from tests.control.fixture_problem import (
    assert_matches,
    load,
    make_problem,
    paths_with,
    zero_controls,
)
from tests.control.fixture_runs import VALUE_UPDATES, chosen
from tests.fixture_files import fixture_ids
from tests.tolerances import EXACT64

PATHS = paths_with("alphas")
OUTPUT = [path for path in PATHS if str(load(path)["control_mode"]) == "output"]
SCHEDULED = paths_with("alphas", "alpha_schedule")
each_file = pytest.mark.parametrize("path", PATHS, ids=fixture_ids(PATHS))


@jax.jit
def sweep(problem, backward, x_init, controls, dampings):
    """Return one policy per damping around the trajectory of `controls`."""
    trajectory = Trajectory(
        states=rollout(problem.dynamics, x_init, controls), controls=controls
    )

    def one(damping):
        return backward(problem, Recompute(), trajectory, damping, jax.random.key(0))

    return trajectory, jax.lax.map(one, jnp.asarray(dampings))


def sweep_file(f, backward, dampings):
    x_init = jnp.asarray(f["x_init"])
    problem = make_problem(f)
    return sweep(problem, backward, x_init, zero_controls(f), jnp.asarray(dampings))


def sweep_variant(f, variant, dampings):
    return sweep_file(f, DenseBackward(value_update=chosen(variant)), dampings)[1]


def after(f):
    """Return grad_u by the index rule: adjoint[n+1] (output) or adjoint[n] (input)."""
    shift = 1 if str(f["control_mode"]) == "output" else 0
    return f["adjoint"][shift : shift + int(f["n_steps"])]


@each_file
def test_backward_passes_reproduce_the_sweep(path):
    f = load(path)
    for variant in VALUE_UPDATES:
        if f"{variant}_k" not in f:
            continue
        policy = sweep_variant(f, variant, f["alphas"])
        found = {
            "k": policy.gains.feedforward,
            "K": policy.gains.feedback,
            "Vx": policy.value_grad,
            "Vxx": policy.value_hess,
        }
        for name, value in found.items():
            expected = f[f"{variant}_{name}"]
            # Entry by entry of the sweep: the scales span many orders of magnitude.
            for damped, stored in zip(value, expected, strict=True):
                assert_matches(damped, stored, f"{variant}_{name}", 1e-8)


@each_file
def test_theorem_a_first_order_controls_are_the_likelihood_gradient(path):
    f = load(path)
    trajectory, policy = sweep_file(f, AdjointBackward(), f["alphas"])
    assert_matches(trajectory.states, f["X"], "X", 1e-10)
    adjoint = -after(f)[None] / f["alphas"][:, None, None]
    np.testing.assert_allclose(policy.gains.feedforward, f["nohess_k"], **EXACT64)
    np.testing.assert_allclose(policy.gains.feedforward, adjoint, **EXACT64)
    np.testing.assert_allclose(policy.value_grad, f["nohess_Vx"], **EXACT64)
    expected = np.broadcast_to(f["adjoint"], policy.value_grad.shape)
    np.testing.assert_allclose(policy.value_grad, expected, **EXACT64)
    # No feedback and no value Hessian: the class of gains has none to compare.
    assert policy.value_hess is None
    assert not np.any(f["nohess_K"])
    assert not np.any(f["nohess_Vxx"])


@each_file
def test_gradients_of_the_remaining_rollout(path):
    f = load(path)
    problem = make_problem(f)
    controls = zero_controls(f)
    states = jnp.asarray(f["X"])
    gradient, costate = jax.jit(adjoint_pass)(
        problem, Recompute(), Trajectory(states=states, controls=controls)
    )
    assert_matches(costate, f["adjoint"], "adjoint", 1e-10)
    assert_matches(gradient, f["grad_u"], "grad_u", 1e-10)
    assert_matches(gradient, after(f), "index rule", 1e-10)

    def remaining(x0, shift):
        return problem.terminal_cost(rollout(problem.dynamics, x0, shift)[-1])

    direct = jax.jit(jax.grad(remaining, argnums=(0, 1)))(states[0], controls)
    assert_matches(direct[0], f["adjoint"][0], "adjoint[0]", 1e-10)
    assert_matches(direct[1], f["grad_u"], "grad_u", 1e-10)


def state_jacobians(problem, states):
    """Return f_x (N, d, d) along an uncontrolled trajectory."""
    return np.asarray(_state_jacobians(problem, states))


@jax.jit
def _state_jacobians(problem, states):
    steps = jnp.arange(states.shape[0] - 1)
    jacobian = jax.jacfwd(problem.dynamics, 1)
    return jax.vmap(jacobian)(steps, states[:-1], jnp.zeros_like(states[:-1]))


@pytest.mark.parametrize("variant", VALUE_UPDATES)
@each_file
def test_large_regulariser_limit(path, variant):
    f = load(path)
    output = str(f["control_mode"]) == "output"
    problem = make_problem(f)
    jacobians = list(state_jacobians(problem, jnp.asarray(f["X"])))
    hessians = [f["terminal_hess"]]
    for jacobian in reversed(jacobians):
        hessians.insert(0, jacobian.T @ hessians[0] @ jacobian)
    limit_hess = np.stack(hessians)
    left = [np.eye(int(f["dim"]))] * len(jacobians) if output else jacobians
    limit_gain = -np.stack(
        [
            control.T @ hess @ jacobian
            for control, hess, jacobian in zip(
                left, hessians[1:], jacobians, strict=True
            )
        ]
    )

    # The error is of first order in |V_xx| * steps / alpha.
    size = np.max(np.linalg.norm(limit_hess, 2, axis=(1, 2))) * len(jacobians)
    alphas = size * np.array([1e2, 1e3, 1e4])
    policy = sweep_variant(
        f, variant, np.pad(alphas, (0, len(f["alphas"]) - 3), "edge")
    )
    scale = alphas[:, None, None]
    pairs = {
        "alpha k": (scale * policy.gains.feedforward[:3], -after(f)),
        "alpha K": (scale[..., None] * policy.gains.feedback[:3], limit_gain),
        "Vxx": (policy.value_hess[:3], limit_hess),
        "Vx": (policy.value_grad[:3], f["adjoint"]),
    }
    for name, (found, limit) in pairs.items():
        errors = [assert_matches(value, limit, name, 1e-1) for value in found]
        assert errors[2] < 1e-3, (name, errors)
        if errors[0] > 1e-7:  # otherwise there is nothing but rounding to compare
            assert errors[2] < 2.1e-2 * errors[0], (name, errors)


@pytest.mark.parametrize("variant", VALUE_UPDATES)
@each_file
def test_small_regulariser_limit(path, variant):
    """V_x and V_xx of the last step vanish on the range, at the stated rates."""
    f = load(path)
    output = str(f["control_mode"]) == "output"
    problem = make_problem(f)
    n = int(f["n_steps"]) - 1
    jacobian = state_jacobians(problem, jnp.asarray(f["X"]))[n]
    value_hess, value_grad = f["terminal_hess"], f["adjoint"][-1]
    # Q_uu, and the maps that take its coordinates to those of the state before.
    hess_uu = value_hess if output else jacobian.T @ value_hess @ jacobian
    grad_u = value_grad if output else jacobian.T @ value_grad
    back = jacobian if output else np.eye(int(f["dim"]))
    values, vectors = np.linalg.eigh(hess_uu)
    null = vectors[:, np.abs(values) < 1e-9 * np.max(np.abs(values))]
    untouched = back.T @ (null @ (null.T @ grad_u))

    smallest = np.min(np.abs(values[np.abs(values) > 1e-9 * np.max(np.abs(values))]))
    alphas = smallest * np.array([1e-2, 1e-3])
    policy = sweep_variant(
        f, variant, np.pad(alphas, (0, len(f["alphas"]) - 2), "edge")
    )
    rate = 100 if variant == "exact" else 10
    hess_sizes = np.linalg.norm(policy.value_hess[:2, n], axis=(1, 2))
    grad_sizes = np.linalg.norm(policy.value_grad[:2, n] - untouched[None], axis=1)
    # The next order in alpha / eigenvalue is up to 2 percent here.
    np.testing.assert_allclose(hess_sizes[0] / hess_sizes[1], rate, rtol=0.05)
    np.testing.assert_allclose(grad_sizes[0] / grad_sizes[1], rate, rtol=0.05)
    assert np.linalg.norm(policy.gains.feedback[1, n]) > 0.1


@pytest.mark.parametrize("path", OUTPUT, ids=fixture_ids(OUTPUT))
def test_theorem_b_proximal_value_gradient(path):
    """Output mode: V_x = f_x^T alpha (V'_xx + alpha I)^{-1} V'_x at every step."""
    f = load(path)
    problem = make_problem(f)
    policy = sweep_variant(f, "absorbed", f["alphas"])
    jacobians = state_jacobians(problem, jnp.asarray(f["X"]))
    eye = np.eye(int(f["dim"]))
    for a, alpha in enumerate(f["alphas"]):
        for n in range(int(f["n_steps"])):
            hess, grad = policy.value_hess[a, n + 1], policy.value_grad[a, n + 1]
            discounted = alpha * np.linalg.solve(hess + alpha * eye, grad)
            expected = jacobians[n].T @ discounted
            assert_matches(policy.value_grad[a, n], np.asarray(expected), "Vx", 1e-8)


@pytest.mark.parametrize("path", SCHEDULED, ids=fixture_ids(SCHEDULED))
def test_corrected_lemma_schedule(path):
    """1/alpha = strength g^2 dt / 2 gives the guided step of the probability flow."""
    f = load(path)
    problem = make_problem(f)
    trajectory = Trajectory(states=jnp.asarray(f["X"]), controls=zero_controls(f))
    strength = f["sched_strength"]
    schedule = 1 / (strength * f["half_g2_dt"])
    np.testing.assert_allclose(schedule, f["alpha_schedule"], **EXACT64)
    policy = jax.jit(AdjointBackward().__call__)(
        problem, Recompute(), trajectory, jnp.asarray(schedule), jax.random.key(0)
    )
    controls = policy.gains.feedforward
    expected = -strength * f["half_g2_dt"][:, None] * after(f)
    np.testing.assert_allclose(controls, expected, **EXACT64)
    np.testing.assert_allclose(controls, f["sched_u"], **EXACT64)
    states = jax.jit(rollout)(problem.dynamics, trajectory.states[0], controls)
    assert_matches(states, f["sched_X"], "sched_X", 1e-10)
