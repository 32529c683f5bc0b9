"""Golden runs of the Adam-type updates: first order, with feedback, plain adjoint."""

import jax
import jax.numpy as jnp
import optax
import pytest

from diffctl.control import (
    AdjointBackward,
    DenseBackward,
    GradientBackward,
    OptaxUpdate,
    Recompute,
    Trajectory,
    TrajectoryOptimizer,
    adjoint_pass,
)
from diffctl.control.problem import running_total
from tests.control.fixture_problem import (
    assert_matches,
    load,
    make_problem,
    paths_with,
    zero_controls,
)
from tests.control.fixture_runs import VALUE_UPDATES, chosen, run
from tests.fixture_files import fixture_ids

PATHS = paths_with("update")
each_file = pytest.mark.parametrize("path", PATHS, ids=fixture_ids(PATHS))

# The README of the fixtures grants 1e-6 to the last iterations of first_order files.
TOLERANCE = {"first_order_adamw": 1e-6, "feedback_adamw": 1e-8, "adjoint_adam": 1e-8}


def backward_of(f, prefix):
    """Return the backward pass that the rule named in the file stands for."""
    rule = str(f["update"])
    if rule == "feedback_adamw":
        return DenseBackward(value_update=chosen(prefix.rstrip("_")))
    return {"first_order_adamw": AdjointBackward, "adjoint_adam": GradientBackward}[
        rule
    ]()


def run_file(f, prefix):
    hyperparams = {
        "learning_rate": f["lr"],
        "b1": f["adam_b1"],
        "b2": f["adam_b2"],
        "eps": f["adam_eps"],
        "weight_decay": f["weight_decay"],
    }
    update = OptaxUpdate(
        optimizer=optax.adamw,
        hyperparams=jax.tree.map(jnp.asarray, hyperparams),
        damping=jnp.asarray(f["reg_eps"]),
    )
    return run(
        make_problem(f),
        TrajectoryOptimizer(backward=backward_of(f, prefix), update=update),
        jnp.asarray(f["x_init"]),
        zero_controls(f),
        int(f["n_iter"]),
    )


@jax.jit
def gradients(problem, states, controls):
    def one(x, u):
        return adjoint_pass(problem, Recompute(), Trajectory(states=x, controls=u))[0]

    return jax.vmap(one)(states, controls)


@each_file
def test_adam_type_run(path):
    f = load(path)
    problem = make_problem(f)
    prefixes = [f"{v}_" for v in VALUE_UPDATES if f"{v}_X" in f] or [""]
    for prefix in prefixes:
        history, policy, _, _ = run_file(f, prefix)
        states, controls = history.trajectory.states, history.trajectory.controls
        running = jax.vmap(lambda x, u: running_total(problem, x, u))(states, controls)
        adam = history.update_state[0]
        found = {
            "X": states,
            "U": controls,
            "running": running,
            "terminal": history.cost - running,
            "cost": history.cost,
            "grad": gradients(problem, states[:-1], controls[:-1]),
            "k": policy.gains.feedforward,
            "m": adam.mu[1:],
            "v": adam.nu[1:],
        }
        if f"{prefix}K" in f:
            found["K"] = policy.gains.feedback
        if str(f["update"]) == "adjoint_adam":
            del found["k"]
        rtol = TOLERANCE[str(f["update"])]
        for name, value in found.items():
            assert_matches(value, f[prefix + name], prefix + name, rtol)
