"""Linear-quadratic problems: every backward pass against the closed form."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.control import (
    AdjointBackward,
    ComposedCost,
    ControlEnergy,
    DenseBackward,
    GradientBackward,
    LowRankBackward,
    NoFactors,
    ProjectedBackward,
    RandomizedFactors,
    Recompute,
    Trajectory,
    feedback_rollout,
    random_basis,
    rollout,
    stacked_qr,
    total_cost,
)
from tests.control.fixture_runs import VALUE_UPDATES, chosen
from tests.control.linear_problem import (
    DIM,
    MEASURED,
    STEPS,
    closed_form,
    make_linear_problem,
    random_controls,
)
from tests.tolerances import EXACT64

# Input and output control share their compiled programs; general has other shapes.
each_mode = pytest.mark.parametrize("mode", ["input", "output"])
every_mode = pytest.mark.parametrize("mode", ["input", "output", "general"])
each_variant = pytest.mark.parametrize("variant", VALUE_UPDATES)


@jax.jit
def nominal(problem, x_init, controls):
    states = rollout(problem.dynamics, x_init, controls)
    return Trajectory(states=states, controls=controls)


def solve_back(problem, backward, trajectory, damping):
    damping = jnp.broadcast_to(damping, STEPS).astype(trajectory.states.dtype)
    return _solve_back(problem, backward, trajectory, damping)


@jax.jit
def _solve_back(problem, backward, trajectory, damping):
    return backward(problem, Recompute(), trajectory, damping, jax.random.key(3))


@jax.jit
def follow(problem, x_init, trajectory, gains, step_size):
    """Return the trajectory of the policy from `x_init`, and its cost."""
    moved = feedback_rollout(
        problem.dynamics,
        Recompute(),
        x_init,
        trajectory.states,
        trajectory.controls + step_size * gains.feedforward,
        gains,
    )
    return moved, total_cost(problem, moved.states, moved.controls)


def setup(mode, seed=0):
    problem, x_init = make_linear_problem(mode, seed)
    return problem, nominal(problem, x_init, random_controls(problem))


def dense_value(policy):
    rows = policy.value_hess.reshape(STEPS + 1, -1, DIM)
    return jnp.einsum("tra,trb->tab", rows, rows)


DENSE = DenseBackward(value_update=chosen("absorbed"))
LOW_RANK = LowRankBackward(value_update=chosen("absorbed"))
# Everything that must not change the result: a sketch that covers the rank, chunks, QR.
SKETCHED = LowRankBackward(
    terminal=RandomizedFactors(rank=MEASURED, chunk_size=2),
    normal_factor=stacked_qr,
    chunk_size=3,
)


@pytest.mark.parametrize(
    ("mode", "backward"),
    [
        ("input", DENSE),
        ("output", DENSE),
        ("general", DENSE),
        ("input", LOW_RANK),
        ("output", LOW_RANK),
        ("general", LOW_RANK),
        ("input", SKETCHED),
        ("output", SKETCHED),
    ],
)
def test_one_undamped_iteration_reaches_the_closed_form(mode, backward):
    problem, trajectory = setup(mode)
    policy = solve_back(problem, backward, trajectory, 0.0)
    x_init = trajectory.states[0]
    moved, _ = follow(problem, x_init, trajectory, policy.gains, 1.0)
    expected = closed_form(problem, x_init)
    np.testing.assert_allclose(moved.controls, expected, **EXACT64)


@each_variant
@every_mode
def test_lowrank_equals_dense_with_damping(mode, variant):
    problem, trajectory = setup(mode)
    damping = jnp.linspace(0.05, 2.0, STEPS)
    update = chosen(variant)
    dense = solve_back(problem, DenseBackward(value_update=update), trajectory, damping)
    lowrank = solve_back(
        problem, LowRankBackward(value_update=update), trajectory, damping
    )
    found = (
        lowrank.gains.feedforward,
        lowrank.gains.dense_feedback(),
        lowrank.slope,
        lowrank.value_grad,
        dense_value(lowrank),
    )
    expected = (
        dense.gains.feedforward,
        dense.gains.feedback,
        dense.slope,
        dense.value_grad,
        dense.value_hess,
    )
    for ours, oracle in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, oracle, rtol=1e-10, atol=1e-10)
    smallest = np.linalg.eigvalsh(np.asarray(lowrank.gains.core))[:, 0]
    assert np.all(smallest > 0)
    np.testing.assert_allclose(
        lowrank.gains.core, np.swapaxes(lowrank.gains.core, 1, 2), **EXACT64
    )


def test_projected_recursion_is_exact_on_the_pulled_back_basis():
    problem, trajectory = setup("input")
    exact = solve_back(problem, LOW_RANK, trajectory, 0.3)
    projected = solve_back(problem, ProjectedBackward(), trajectory, 0.3)
    pairs = (
        (projected.gains.feedforward, exact.gains.feedforward),
        (projected.gains.dense_feedback(), exact.gains.dense_feedback()),
        (projected.value_grad, exact.value_grad),
    )
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)
    # A random basis of the same rank loses most of the feedback.
    lost = solve_back(problem, ProjectedBackward(basis=random_basis), trajectory, 0.3)
    error = lost.gains.dense_feedback() - exact.gains.dense_feedback()
    assert np.linalg.norm(error) > 0.5 * np.linalg.norm(exact.gains.dense_feedback())


@jax.jit
def policy_cost_derivatives(problem, trajectory, gains, damping):
    def cost(x_init):
        moved, total = follow(problem, x_init, trajectory, gains, 1.0)
        change = jnp.sum(jnp.square(moved.controls - trajectory.controls), axis=1)
        return total, total + 0.5 * jnp.sum(damping * change)

    x_init = trajectory.states[0]
    return jax.jacfwd(cost)(x_init), jax.jacfwd(jax.jacrev(cost))(x_init)


@pytest.mark.parametrize("which", [0, 1], ids=["true cost", "with proximal term"])
@each_mode
def test_value_derivatives_are_those_of_the_policys_cost(mode, which):
    """Levenberg-Marquardt: of J. Proximal: of J and the proximal term."""
    problem, trajectory = setup(mode)
    damping = jnp.linspace(0.05, 2.0, STEPS)
    backward = DenseBackward(value_update=chosen(["exact", "absorbed"][which]))
    policy = solve_back(problem, backward, trajectory, damping)
    derivatives = policy_cost_derivatives(problem, trajectory, policy.gains, damping)
    gradient, hessian = derivatives[0][which], derivatives[1][which]
    np.testing.assert_allclose(policy.value_grad[0], gradient, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(policy.value_hess[0], hessian, rtol=1e-10, atol=1e-10)
    # The printed combination is the value of neither.
    printed = DenseBackward(value_update=chosen("paper"))
    wrong = solve_back(problem, printed, trajectory, damping).value_hess[0]
    assert np.linalg.norm(wrong - hessian) > 1e-3 * np.linalg.norm(hessian)


@each_mode
def test_rank_zero_is_the_adjoint_gradient(mode):
    problem, trajectory = setup(mode)
    x_init, controls = trajectory.states[0], trajectory.controls

    def objective(u):
        return total_cost(problem, rollout(problem.dynamics, x_init, u), u)

    gradient = jax.jit(jax.grad(objective))(controls)
    scale = problem.running_cost.weight[:, None] + 0.2
    passes = {
        LowRankBackward(terminal=NoFactors()): -gradient / scale,
        AdjointBackward(): -gradient / scale,
        GradientBackward(): -gradient,
    }
    for backward, expected in passes.items():
        policy = solve_back(problem, backward, trajectory, 0.2)
        np.testing.assert_allclose(policy.gains.feedforward, expected, **EXACT64)
        moved, _ = follow(problem, x_init, trajectory, policy.gains, 0.5)
        shifted = controls + 0.5 * policy.gains.feedforward
        np.testing.assert_allclose(moved.controls, shifted, **EXACT64)
        slope = jnp.vdot(policy.gains.feedforward, gradient)
        np.testing.assert_allclose(jnp.sum(policy.slope), slope, **EXACT64)


@each_mode
def test_a_sketch_of_lower_rank_still_descends(mode):
    problem, trajectory = setup(mode)
    backward = LowRankBackward(terminal=RandomizedFactors(rank=1))
    policy = solve_back(problem, backward, trajectory, 0.1)
    start = total_cost(problem, trajectory.states, trajectory.controls)
    x_init = trajectory.states[0]
    # The curvature that the sketch leaves out calls for a small step.
    _, cost = follow(problem, x_init, trajectory, policy.gains, 1e-5)
    assert jnp.sum(policy.slope) < 0
    assert cost < start


@each_mode
def test_feedback_helps_after_a_disturbance(mode):
    problem, trajectory = setup(mode)
    policy = solve_back(problem, LOW_RANK, trajectory, 0.0)
    disturbed = trajectory.states[0] + 0.5
    _, with_feedback = follow(problem, disturbed, trajectory, policy.gains, 1.0)
    gains = jax.tree.map(jnp.zeros_like, policy.gains)
    open_loop, _ = follow(problem, trajectory.states[0], trajectory, policy.gains, 1.0)
    _, without = follow(problem, disturbed, open_loop, gains, 0.0)
    optimum = closed_form(problem, disturbed)
    best = nominal(problem, disturbed, jnp.asarray(optimum))
    optimal = total_cost(problem, best.states, best.controls)
    assert with_feedback < without
    # With exact gains the disturbed rollout is optimal again.
    np.testing.assert_allclose(with_feedback, optimal, **EXACT64)


@each_mode
def test_strong_damping_gives_the_first_order_method(mode):
    problem, trajectory = setup(mode)
    policy = solve_back(problem, LOW_RANK, trajectory, 1e9)
    first = solve_back(problem, AdjointBackward(), trajectory, 1e9)
    assert np.max(np.abs(policy.gains.dense_feedback())) < 1e-6
    # Relative error |V_xx| / damping, measured 1e-7.
    np.testing.assert_allclose(policy.value_grad, first.value_grad, rtol=1e-5)
    values = np.linalg.eigvalsh(np.asarray(dense_value(policy)))
    assert np.min(values) > -1e-12 * np.max(values)


@pytest.mark.parametrize(
    ("backward", "vjps"),
    [
        (AdjointBackward(), 1),
        (GradientBackward(), 1),
        (LowRankBackward(terminal=NoFactors()), 1),
        (LowRankBackward(), 1 + MEASURED),
        (LowRankBackward(terminal=RandomizedFactors(rank=2)), 3),
        (ProjectedBackward(), 1 + MEASURED),
        (DenseBackward(), DIM),
    ],
)
def test_calls_are_counted(backward, vjps):
    """Count pull-backs as they are traced, and compare with what is declared."""
    problem, trajectory = setup("input")
    counted, declared = CountingLinearisation(pulled=[]), []

    def record():
        key = jax.random.key(0)
        policy = backward(problem, counted, trajectory, 0.1, key)
        declared.append((policy.calls.fwd, policy.calls.vjp))
        return policy.slope

    jax.eval_shape(record)
    assert declared == [(STEPS, STEPS * vjps)]
    assert sum(counted.pulled) == vjps


@dataclass(frozen=True)
class CountingLinearisation(Recompute):
    """Notes how many cotangents a step pulls back (the scan body is traced once)."""

    pulled: list

    def recall(self, dynamics, x, u):
        pullback_of = super().recall(dynamics, x, u)

        def counting(*at):
            pullback = pullback_of(*at)

            @jax.custom_batching.custom_vmap
            def pull(cotangent):
                self.pulled.append(1)
                return pullback(cotangent)

            @pull.def_vmap
            def pull_many(size, batched, cotangents):
                self.pulled.append(size - 1)  # the rule follows one unbatched trace
                return jax.vmap(pullback)(cotangents), (True, True)

            return pull

        return counting


def test_general_running_cost_against_newton():
    """One dense iteration solves any quadratic problem; oracle: the linear system."""
    problem, trajectory = setup("general")
    x_init, controls = trajectory.states[0], trajectory.controls

    def running_cost(i, x, u):
        cross = jnp.vdot(x[: u.size], u)
        return jnp.vdot(x, x) + (1.0 + i) * jnp.vdot(u, u) + cross + jnp.sum(u)

    general = replace(problem, running_cost=running_cost)

    def objective(u):
        u = u.reshape(controls.shape)
        return total_cost(general, rollout(general.dynamics, x_init, u), u)

    @jax.jit
    def newton(u):
        step = jnp.linalg.solve(jax.hessian(objective)(u), jax.grad(objective)(u))
        return u - step

    @jax.jit
    def iterate(trajectory):
        key = jax.random.key(0)
        policy = DenseBackward()(general, Recompute(), trajectory, jnp.zeros(()), key)
        return feedback_rollout(
            general.dynamics,
            Recompute(),
            x_init,
            trajectory.states,
            trajectory.controls + policy.gains.feedforward,
            policy.gains,
        ).controls

    expected = newton(controls.reshape(-1)).reshape(controls.shape)
    np.testing.assert_allclose(iterate(trajectory), expected, **EXACT64)


def test_errors_name_the_cure():
    problem, trajectory = setup("general")
    key = jax.random.key(0)
    plain = replace(problem, running_cost=lambda i, x, u: jnp.vdot(u, u))
    with pytest.raises(TypeError, match="ControlEnergy"):
        LowRankBackward()(plain, Recompute(), trajectory, 0.1, key)
    bare = replace(problem, terminal_cost=lambda x: jnp.vdot(x, x))
    with pytest.raises(TypeError, match="ComposedCost"):
        LowRankBackward()(bare, Recompute(), trajectory, 0.1, key)
    with pytest.raises(ValueError, match="input_control"):
        ProjectedBackward()(problem, Recompute(), trajectory, 0.1, key)


def test_float32_stays_float32_and_qr_keeps_digits():
    problem, trajectory = setup("input")
    tight = problem.terminal_cost.loss.std * 1e-3
    stiff = replace(
        problem,
        running_cost=ControlEnergy(weight=1e-3 * problem.running_cost.weight),
        terminal_cost=ComposedCost(
            map=problem.terminal_cost.map,
            loss=replace(problem.terminal_cost.loss, std=tight),
        ),
    )
    oracle = solve_back(stiff, LOW_RANK, trajectory, 0.0)
    single = jax.tree.map(lambda a: a.astype(jnp.float32), (stiff, trajectory))
    with jax.enable_x64(False):
        policy = solve_back(
            single[0],
            LowRankBackward(normal_factor=stacked_qr),
            single[1],
            0.0,
        )
    leaves = jax.tree.leaves((policy.gains, policy.value_grad, policy.value_hess))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    scale = np.max(np.abs(oracle.gains.dense_feedback()))
    error = policy.gains.dense_feedback() - oracle.gains.dense_feedback()
    assert np.max(np.abs(error)) < 1e-2 * scale, np.max(np.abs(error)) / scale
