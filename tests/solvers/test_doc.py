"""DOC on linear dynamics against the closed form of LQR, and its symmetries."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.control import (
    AdjointBackward,
    ExactFactors,
    LineSearch,
    LowRankBackward,
    OptaxUpdate,
    RandomizedFactors,
    StorePullbacks,
    TrajectoryOptimizer,
    input_control,
    output_control,
    rollout,
)
from diffctl.diffusion import Ancestral, Euler, Heun
from diffctl.operators import GaussianNoise, Identity, PoissonNoise, Problem
from diffctl.solvers import DOC, NoControls, solve
from diffctl.solvers.weighting import inverse_guidance, uniform_weight
from tests.solvers.bed import NOISE_STD, NUM_MEASURED, SIZE, bed, grid, mixture
from tests.tolerances import EXACT32, EXACT64

KEY = jax.random.key(5)
NUM_STEPS = 5
WEIGHTS = np.linspace(0.3, 1.7, NUM_STEPS)
MODES = {"input": input_control, "output": output_control}


def _newton(**backward):
    """One undamped step, with the line search only watching."""
    return TrajectoryOptimizer(
        backward=LowRankBackward(**backward),
        update=LineSearch(damping=0.0, smallest_damping=0.0),
    )


def _solver(control=input_control, num_steps=1, **fields):
    settings = {
        "grid": grid(NUM_STEPS),
        "control_weight": jnp.asarray(WEIGHTS),
        "optimizer": _newton(terminal=ExactFactors()),
        "weighting": uniform_weight,
        "start_scale": 1.0,
    }
    return DOC(num_steps=num_steps, control=control, **settings | fields)


def _keep_iteration(carry, trace):
    return carry.iteration


def _closed_form(law, z_init, mode):
    """Return x0 and the controls of section 2.3: the MAP under N(free end, S).

    phi_i z = P_i z + c_i in coordinates of unit variance,
    B_i = P_{T-1} ... P_{i+1} h_u.
    """
    levels = np.asarray(grid(NUM_STEPS).sigma)
    scales = np.sqrt(1 + levels**2)
    end, steps = z_init, []
    for now, next, scale, scale_next in zip(
        levels, levels[1:], scales, scales[1:], strict=False
    ):
        ratio = next / now
        jacobian = law.jacobian(now)
        matrix = ratio * np.eye(SIZE) + (1 - ratio) * jacobian
        offset = (1 - ratio) * (law.mean - jacobian @ law.mean)
        steps.append(matrix * scale / scale_next)
        end = steps[-1] @ end + offset / scale_next
    later, reaches = np.eye(SIZE), []
    for matrix in reversed(steps):
        reaches.append(later @ matrix if mode == "input" else later)
        later = later @ matrix
    reaches = np.stack(reaches[::-1])
    gramian = sum(b @ b.T / w for b, w in zip(reaches, WEIGHTS, strict=True))
    total = NOISE_STD**2 * np.eye(NUM_MEASURED) + law.matrix @ gramian @ law.matrix.T
    pull = law.matrix.T @ np.linalg.solve(total, law.y - law.matrix @ end)
    controls = [b.T @ pull / w for b, w in zip(reaches, WEIGHTS, strict=True)]
    return end + gramian @ pull, np.stack(controls)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("mode", MODES)
def test_one_iteration_reaches_the_closed_form(mode):
    law = bed()
    solution = solve(
        KEY, law.problem(), law.prior(), _solver(MODES[mode]), record=_keep_iteration
    )
    trajectory = solution.trace.trajectory
    x0, controls = _closed_form(law, np.asarray(trajectory.states[0, 0]), mode)
    # Measured: 1.3e-14; the bound is what `diffctl selfcheck` promises.
    chex.assert_trees_all_close(solution.x, jnp.asarray(x0), rtol=1e-9, atol=1e-9)
    chex.assert_trees_all_close(
        trajectory.controls[0], jnp.asarray(controls), rtol=1e-9, atol=1e-9
    )


@pytest.mark.usefixtures("x64")
def test_a_sketch_of_full_rank_is_as_good():
    law = bed()
    exact = solve(KEY, law.problem(), law.prior(), _solver())
    sketch = _newton(terminal=RandomizedFactors(rank=NUM_MEASURED))
    sketched = solve(KEY, law.problem(), law.prior(), _solver(optimizer=sketch))
    chex.assert_trees_all_close(sketched.x, exact.x, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_input_and_output_controls_are_a_change_of_variables():
    """u_out = phi(z + u_in) - phi(z) rolls out to the same states."""
    law, prior = bed(), mixture()
    rng = np.random.default_rng(0)
    z_init, u_in = rng.normal(size=SIZE), rng.normal(size=(NUM_STEPS, SIZE))

    def dynamics(mode):
        problem = _solver(MODES[mode])._control_problem(law.problem(), prior, None)
        return problem.dynamics

    @jax.jit
    def both(z_init, u_in):
        states = rollout(dynamics("input"), z_init, u_in)
        free = jax.vmap(dynamics("output"))(
            jnp.arange(NUM_STEPS), states[:-1], jnp.zeros_like(u_in)
        )
        return states, rollout(dynamics("output"), z_init, states[1:] - free)

    states, again = both(jnp.asarray(z_init), jnp.asarray(u_in))
    chex.assert_trees_all_close(states, again, **EXACT64)


def _first_order(**fields):
    update = OptaxUpdate(hyperparams={"learning_rate": 0.01})
    return TrajectoryOptimizer(backward=AdjointBackward(), update=update, **fields)


def _low_rank(rank, **fields):
    backward = LowRankBackward(terminal=RandomizedFactors(rank=rank))
    return TrajectoryOptimizer(
        backward=backward, update=LineSearch(max_tries=1), **fields
    )


@pytest.mark.parametrize(
    ("fields", "fwd", "vjp"),
    [
        # A guided rollout is one look ahead and one step; then comes the first rollout;
        # an iteration is a rollout, a linearisation and r + 1 VJPs.
        ({"optimizer": _first_order()}, 15 + 3 * 10, 5 + 3 * 5),
        (
            {"optimizer": _first_order(), "first_guess": NoControls()},
            5 + 3 * 10,
            3 * 5,
        ),
        (
            {"optimizer": _first_order(linearisation=StorePullbacks())},
            15 + 3 * 5,
            5 + 3 * 5,
        ),
        ({"optimizer": _low_rank(2)}, 15 + 3 * 10, 5 + 3 * 5 * 3),
        (
            {"optimizer": _first_order(), "reverse": Heun()},
            5 * (1 + 2 + 2) + 3 * 20,
            5 + 3 * 10,
        ),
    ],
    ids=["first_order", "unguided", "stored", "rank_2", "heun"],
)
def test_calls_follow_the_formula(fields, fwd, vjp):
    solver = _solver(num_steps=3, control_weight=0.5, **fields)
    law = bed()
    found = jax.eval_shape(solver.init, KEY, law.problem(), mixture())[0]
    assert found.iteration.trajectory.states.shape == (NUM_STEPS + 1, SIZE)
    stats = solve(KEY, law.problem(), mixture(), solver).stats
    assert (stats.nfe_fwd, stats.nvjp, stats.njvp) == (fwd, vjp, 0)


@pytest.mark.parametrize("stochastic", [False, True], ids=["euler", "ancestral"])
def test_process_noise_is_frozen_by_the_key(stochastic):
    """The states that the carry claims are those that its controls lead to."""
    reverse = {"reverse": Ancestral()} if stochastic else {}
    solver = _solver(num_steps=2, optimizer=_first_order(), **reverse)
    problem, prior = bed().problem(), mixture()

    @jax.jit
    def twice(key):
        carry, keys = solver.init(key, problem, prior)
        for i in range(2):
            carry, _ = solver.step(carry, keys[i], problem, prior)
        control = solver._control_problem(problem, prior, carry.noise)
        trajectory = carry.iteration.trajectory
        states = rollout(control.dynamics, trajectory.states[0], trajectory.controls)
        return trajectory, states, carry.noise

    trajectory, states, noise = twice(KEY)
    assert (noise is not None) == stochastic
    chex.assert_trees_all_close(trajectory.states, states, rtol=1e-5, atol=1e-5)
    other, _, other_noise = twice(jax.random.key(6))
    assert jnp.max(jnp.abs(other.states[0] - states[0])) > 0.1
    if stochastic:
        assert jnp.max(jnp.abs(other_noise - noise)) > 0.1


def _free_end(solver, problem, prior):
    carry, _ = jax.jit(solver.init)(KEY, problem, prior)
    return carry.iteration.trajectory.states[-1]


@pytest.mark.parametrize(
    "preset", ["default", "ilqr", "adam", "paper", "released_code"]
)
def test_every_preset_explains_the_measurement_better_than_no_control(preset):
    problem, prior = bed().problem(), mixture()
    solver = {
        "default": lambda: dataclasses.replace(DOC.default(), grid=grid()),
        "ilqr": lambda: dataclasses.replace(DOC.ilqr(rank=2), grid=grid()),
        "adam": lambda: DOC(grid=grid()),
        "paper": lambda: DOC.paper("super_resolution_x4"),
        "released_code": lambda: DOC.released_code("gaussian_deblurring"),
    }[preset]()
    solver = dataclasses.replace(solver, num_steps=20)
    solution = solve(KEY, problem, prior, solver)
    free = problem.misfit(_free_end(solver, problem, prior))
    assert solution.status == 0
    chex.assert_trees_all_close(
        solution.stats.misfit[-1], problem.misfit(solution.x), **EXACT32
    )
    assert solution.stats.misfit[-1] < free


def test_the_line_search_sees_every_decrease_of_a_bright_photon_count():
    """With k log r in the costs it stops 1.2 standard deviations short."""
    peak, truth = 1e7, jnp.linspace(-0.5, 0.5, SIZE)
    noise, operator = PoissonNoise(peak=peak), Identity(shape=(SIZE,))
    problem = Problem(y=noise.sample(KEY, truth), operator=operator, noise=noise)
    optimizer = TrajectoryOptimizer(
        backward=LowRankBackward(terminal=ExactFactors()),
        update=LineSearch(smallest_damping=1e-12, success_factor=0.1),
    )
    weight = jnp.asarray(1.0)
    # How soon depends on rounding: within 12 to 20 iterations, by the compiler.
    solver = _solver(
        num_steps=20, optimizer=optimizer, control_weight=weight, start_scale=0.0
    )
    solution = solve(KEY, problem, bed().prior(), solver)
    std = 2 * jnp.sqrt(peak * (truth + 1) / 2) / peak
    assert jnp.sum(((solution.x - problem.y) / std) ** 2) < 1e-2
    assert 0 <= solution.stats.misfit[-1] < 1e-2


@pytest.mark.usefixtures("x64")
def test_the_default_weight_is_the_inverse_weight_of_a_score():
    """gamma from the reverse step itself: what a score of 1 moves, in coordinates z."""
    now, next = grid().pairs()
    moved = Euler().guidance_coefficient(now, next)
    gamma = moved / jnp.sqrt((1 + now.sigma**2) * (1 + next.sigma**2))
    chex.assert_trees_all_close(inverse_guidance(now, next), 1 / gamma, **EXACT64)


@pytest.mark.slow
def test_more_levels_change_little():
    """Robustness to T: the misfit reached does not depend on the number of levels."""
    problem, prior = bed().problem(), mixture()
    reached = []
    for num_levels in (5, 10, 20, 40):
        solver = DOC(grid=grid(num_levels), start_scale=1.0)
        keys = jax.random.split(KEY, 16)
        solutions = jax.vmap(lambda k, s=solver: solve(k, problem, prior, s))(keys)
        assert jnp.all(solutions.status == 0)
        reached.append(float(jnp.median(solutions.stats.misfit[:, -1])))
    assert max(reached) < 3 * min(reached) + 0.5, reached


@pytest.mark.parametrize("std", [1e-4, 1e-7, 1e-10])
def test_precise_data_are_explained_in_single_precision(std):
    """As in float64; the zero image would be off by |y|, eight levels are by 0.4 %."""

    def solved():
        solver = DOC.default(num_levels=8, num_steps=2)
        problem = dataclasses.replace(bed().problem(), noise=GaussianNoise(std=std))
        solution = solve(KEY, problem, bed().prior(), solver)
        assert solution.status == 0
        off = jnp.linalg.norm(problem.residual(solution.x))
        assert off < 1e-2 * jnp.linalg.norm(problem.y)
        return np.asarray(solution.x)

    found = solved()
    with jax.enable_x64(True):
        exact = solved()
    np.testing.assert_allclose(found, exact, rtol=1e-3)
