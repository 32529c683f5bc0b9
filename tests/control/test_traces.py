"""Golden iLQR traces: every array of every file, the three value updates."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.control import (
    DenseBackward,
    LineSearch,
    LowRankBackward,
    Recompute,
    Trajectory,
    TrajectoryOptimizer,
    exact_hessian,
    gauss_newton_hessian,
)
from diffctl.control.backward import StepPoint
from diffctl.control.ilqr import expand_step
from diffctl.control.problem import running_total
from tests.control.fixture_problem import (
    assert_matches,
    load,
    make_problem,
    paths_with,
    zero_controls,
)
from tests.control.fixture_runs import chosen, run, variants
from tests.fixture_files import fixture_ids

PATHS = paths_with("reg_eps_init")
OPTIMA = paths_with("reg_eps_init", "optimum_U")
HESSIANS = {"exact": exact_hessian, "gn": gauss_newton_hessian}


def covered_by_gauss_newton(path):
    f = load(path)
    return str(f["hessian"]) == "gn" or str(f["operator"]) == "linear"


COVERED = [path for path in PATHS if covered_by_gauss_newton(path)]
each_file = pytest.mark.parametrize("path", PATHS, ids=fixture_ids(PATHS))


def tolerance(f, variant):
    # The README of the fixtures grants 1e-6 to runs with an indefinite Hessian, where
    # rejected steps amplify rounding (measured: 6e-10; elsewhere 3e-12).
    return 1e-6 if np.min(f[f"{variant}_min_eig"]) < 0 else 1e-8


def make_optimizer(f, variant, **line_search):
    settings = {
        "damping": f["reg_eps_init"],
        "success_factor": f["reg_success_factor"],
        "failure_factor": f["reg_failure_factor"],
        "smallest_damping": f["reg_min"],
        "sufficient_decrease": 0.0,
    }
    settings = {k: jnp.asarray(v, float) for k, v in (settings | line_search).items()}
    return TrajectoryOptimizer(
        backward=DenseBackward(
            terminal_hessian=HESSIANS[str(f["hessian"])], value_update=chosen(variant)
        ),
        update=LineSearch(max_tries=int(f["max_tries"]), **settings),
    )


def run_file(f, variant, controls=None, **line_search):
    controls = zero_controls(f) if controls is None else controls
    return run(
        make_problem(f),
        make_optimizer(f, variant, **line_search),
        jnp.asarray(f["x_init"]),
        controls,
        int(f["n_iter"]),
    )


@each_file
def test_dense_ilqr_reproduces_the_trace(path):
    f = load(path)
    problem = make_problem(f)
    for variant in variants(f):
        history, policy, step_size, tries = run_file(f, variant)
        trajectory = history.trajectory
        running = jax.vmap(lambda t: running_total(problem, t.states, t.controls))(
            trajectory
        )
        found = {
            "X": trajectory.states,
            "U": trajectory.controls,
            "k": policy.gains.feedforward,
            "K": policy.gains.feedback,
            "Vx": policy.value_grad,
            "Vxx": policy.value_hess,
            "cost": history.cost,
            "running": running,
            "terminal": history.cost - running,
            "eps": history.update_state,
            "step": step_size,
            "tries": tries,
        }
        for name, value in found.items():
            full_name = f"{variant}_{name}"
            assert_matches(value, f[full_name], full_name, tolerance(f, variant))


@each_file
def test_a_sufficient_decrease_rule_leads_to_the_same_run(path):
    f = load(path)
    for variant in variants(f):
        _, _, step_size, tries = run_file(f, variant, sufficient_decrease=1e-3)
        assert_matches(step_size, f[f"{variant}_step"], "step", 0.0)
        assert_matches(tries, f[f"{variant}_tries"], "tries", 0.0)


@pytest.mark.parametrize("path", OPTIMA, ids=fixture_ids(OPTIMA))
def test_undamped_iteration_reaches_the_optimum_from_random_controls(path):
    f = load(path)
    start = jax.random.normal(jax.random.key(1), zero_controls(f).shape)
    history, _, step_size, _ = run_file(f, "absorbed", start, damping=0.0)
    assert step_size[0] == 1
    one = jax.tree.map(lambda leaf: leaf[1], history)
    assert_matches(one.trajectory.controls, f["optimum_U"], "optimum_U", 1e-9)
    assert_matches(one.trajectory.states, f["optimum_X"], "optimum_X", 1e-9)
    assert_matches(one.cost, f["optimum_cost"], "optimum_cost", 1e-9)


@jax.jit
def expansions(problem, states, controls, value_grad, value_hess):
    """Return the quadratic model and the state Jacobian of every step."""

    def one(i, x, u, grad, hess):
        _, pullback = jax.vjp(partial(problem.dynamics, i), x, u)
        point = StepPoint(i=i, x=x, u=u)
        jacobian = jax.vmap(lambda row: pullback(row)[0])(jnp.eye(x.size))
        return expand_step(problem.running_cost, point, pullback, grad, hess), jacobian

    steps = jnp.arange(controls.shape[0])
    return jax.vmap(one)(steps, states[:-1], controls, value_grad[1:], value_hess[1:])


@each_file
def test_quadratic_model(path):
    f = load(path)
    problem = make_problem(f)
    for variant in variants(f):
        for n in range(int(f["n_iter"])):
            arrays = (f[f"{variant}_{name}"][n] for name in ("X", "U", "Vx", "Vxx"))
            q, jacobian = expansions(problem, *arrays)
            damped = q.hess_uu + f[f"{variant}_eps"][n] * np.eye(int(f["dim"]))[None]
            smallest = np.linalg.eigvalsh(np.asarray(damped))[:, 0]
            found = {f"{variant}_min_eig": (smallest, f[f"{variant}_min_eig"][n])}
            if variant == "exact" and n == 0:
                found |= {
                    "first_Qu": (q.grad_u, f["first_Qu"]),
                    "first_Quu": (q.hess_uu, f["first_Quu"]),
                    "first_Qux": (q.hess_ux, f["first_Qux"]),
                    "first_fx": (jacobian, f["first_fx"]),
                }
            for name, (value, expected) in found.items():
                assert_matches(value, expected, name, tolerance(f, variant))


@jax.jit
def lowrank_policies(problem, backward, states, controls, damping):
    def one(x, u, d):
        trajectory = Trajectory(states=x, controls=u)
        return backward(problem, Recompute(), trajectory, d, jax.random.key(0))

    return jax.lax.map(lambda args: one(*args), (states, controls, damping))


@pytest.mark.parametrize("path", COVERED, ids=fixture_ids(COVERED))
def test_lowrank_recursion_reproduces_the_dense_gains(path):
    f = load(path)
    problem = make_problem(f)
    for variant in variants(f):
        states, controls, eps = (
            f[f"{variant}_{name}"][:-1] for name in ("X", "U", "eps")
        )
        backward = LowRankBackward(value_update=chosen(variant))
        policy = lowrank_policies(problem, backward, states, controls, eps)
        rows = np.asarray(policy.value_hess)
        found = {
            "k": policy.gains.feedforward,
            "K": jax.vmap(lambda gains: gains.dense_feedback())(policy.gains),
            "Vx": policy.value_grad,
            "Vxx": np.einsum("itra,itrb->itab", rows, rows),
        }
        for name, value in found.items():
            full_name = f"{variant}_{name}"
            assert_matches(value, f[full_name], full_name, 1e-8)
