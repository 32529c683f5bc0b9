"""What every solver promises, whatever its algorithm; the rows are in `cases`."""

import dataclasses
import functools
import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.key_reuse._core import check_key_reuse

from diffctl import checkpoint
from diffctl.core import Solution, Solver, Status
from diffctl.operators import (
    Categorical,
    DenseMatrix,
    GaussianNoise,
    Identity,
    Problem,
    SpectralOperator,
)
from diffctl.solvers import listen, solve, solve_batch, solve_stepwise
from diffctl.solvers.driver import run
from diffctl.solvers.requirements import check_inputs, solver_classes
from diffctl.solvers.stepwise import start
from tests.contract.cases import BATCH, CASES, Case, Instance
from tests.contract.counting import counted, counting
from tests.contract.units import in_units
from tests.tolerances import EXACT32, REORDER32

KEY = jax.random.key(17)

_ROWS = [
    pytest.param(case, marks=pytest.mark.slow if case.twin else (), id=case.name)
    for case in CASES
]


@pytest.fixture(params=_ROWS, scope="module")
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    yield request.param
    _instance.cache_clear()
    jax.clear_caches()  # a suite of dozens of solvers must not hold all their programs


@functools.cache
def _instance(case: Case) -> Instance:
    return case.build()


def _solve(case: Case, i: int = 0, key: jax.Array = KEY, **changes: Any) -> Solution:
    instance = _instance(case)
    arguments = {
        "problem": instance.problem(i),
        "prior": instance.prior,
        "solver": instance.solver,
    }
    return solve(key, **(arguments | changes))


def _scale_floats(tree: Any, factor: float) -> Any:
    def scaled(leaf: Any) -> Any:
        is_float = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        return leaf * factor if is_float else leaf

    return jax.tree.map(scaled, tree)


def _float_leaves(tree: Any) -> list[jax.Array]:
    return [
        leaf
        for leaf in jax.tree.leaves(tree)
        if jnp.issubdtype(getattr(leaf, "dtype", None), jnp.floating)
    ]


def test_keys_decide_the_result(case):
    first, again, other = (_solve(case, key=k) for k in (KEY, KEY, jax.random.key(18)))
    chex.assert_trees_all_equal(first, again)
    assert first.status == Status.OK
    assert (jnp.max(jnp.abs(first.x - other.x)) > 1e-3) != case.deterministic


def test_every_solver_has_a_row_in_the_quick_lane():
    quick = [case for case in CASES if not case.twin]
    found = set().union(*(_kinds(case.solver()) for case in quick))
    ours = [cls for cls in solver_classes() if cls.__module__.startswith("diffctl.")]
    assert not set(ours) - found


def _kinds(solver: Any) -> set[type]:
    """The classes of a solver and of those that it is made of."""
    parts = [getattr(solver, field.name) for field in dataclasses.fields(solver)]
    inner = (_kinds(part) for part in parts if isinstance(part, Solver))
    return {type(solver)}.union(*inner)


SINGULAR_VALUES = {"all": (0.0, 0.0), "one": (0.5, 1e-8)}


@pytest.mark.parametrize("weak", SINGULAR_VALUES)
def test_directions_that_are_not_measured_do_no_harm(case, weak):
    """A = 0, also of a classifier that gives all images the same logits."""
    problem = _instance(case).problem(0)
    if isinstance(problem.operator, DenseMatrix):
        operator = _weakened(problem.operator, weak)
    elif weak == "all":
        operator = jax.tree.map(jnp.zeros_like, problem.operator)
    else:
        pytest.skip("no singular values")
    _check_harmless(
        _solve(case, problem=dataclasses.replace(problem, operator=operator))
    )


@pytest.mark.slow
@pytest.mark.parametrize("weak", SINGULAR_VALUES)
def test_nor_where_the_inverse_is_iterative(case, weak):
    instance = _instance(case)
    problem = instance.problem(0)
    if not isinstance(problem.operator, DenseMatrix):
        pytest.skip("has no inverse")
    operator = Identity(shape=problem.y.shape) @ _weakened(problem.operator, weak)
    assert not isinstance(operator, SpectralOperator)
    problem = dataclasses.replace(problem, operator=operator)
    try:
        check_inputs(problem, instance.prior, instance.solver)
    except TypeError:
        pytest.skip("needs singular values")
    _check_harmless(_solve(case, problem=problem))


def _weakened(operator: DenseMatrix, weak: str) -> DenseMatrix:
    return dataclasses.replace(operator, values=jnp.asarray(SINGULAR_VALUES[weak]))


def _check_harmless(solution: Solution) -> None:
    assert solution.status == Status.OK
    # Noise of 0.3 over 1e-8, had it been let in, would be 3e7.
    assert jnp.max(jnp.abs(solution.x)) < 100


def test_noise_free_data_are_refused_and_the_cure_works(case):
    """What the message recommends, a small standard deviation, is solved by all."""
    problem = _instance(case).problem(0)
    if not isinstance(problem.noise, GaussianNoise):
        pytest.skip("no standard deviation")

    def with_noise(std: float) -> Problem:
        return dataclasses.replace(problem, noise=GaussianNoise(std=std))

    with pytest.raises(ValueError, match=r"std is 0.0; .* Use a small positive value"):
        _solve(case, problem=with_noise(0.0))
    _check_harmless(_solve(case, problem=with_noise(1e-4)))


def _linear_problem(case: Case) -> Problem:
    problem = _instance(case).problem(0)
    if not isinstance(problem.operator, DenseMatrix):
        pytest.skip("no singular values")
    if not isinstance(problem.noise, GaussianNoise):
        pytest.skip("no standard deviation")
    return problem


@pytest.mark.parametrize("power", [-40, -20, 20])
def test_units_of_the_measurement(case, power):
    """(A, y, sigma_y) -> c (A, y, sigma_y), with c a power of two: the same problem.

    Raw k-space has units of 1e-5; the harshest here is 1e-12. A setting that carries
    the unit goes with it, and a solver has no other.
    """
    instance = _instance(case)
    if not isinstance(instance.problems.noise, GaussianNoise):
        pytest.skip("no unit")
    scaled = in_units(case, instance, 2.0**power)
    found = solve(KEY, scaled.problem(0), scaled.prior, scaled.solver)
    _assert_same(found, _solve(case))


def test_settings_that_carry_the_unit_do(case):
    if not case.units:
        pytest.skip("no such settings")
    problem = in_units(case, _instance(case), 2.0**-40).problem(0)
    change = _solve(case, problem=problem).x - _solve(case).x
    assert jnp.max(jnp.abs(change)) > 1e-3


def test_a_measurement_that_is_all_noise_says_nothing(case):
    """sigma_y = 1e6: another y, no other result."""
    problem = _linear_problem(case)

    def noisy(y: jax.Array) -> Problem:
        return dataclasses.replace(problem, y=y, noise=GaussianNoise(std=1e6))

    pair = [_solve(case, problem=noisy(y)).x for y in (problem.y, problem.y + 1)]
    change = jnp.max(jnp.abs(pair[0] - pair[1]))
    assert (change > 1e-3) if case.follows_y else (change < 1e-4), change


def test_no_retrace_for_other_values(case, caplog):
    instance = _instance(case)
    first = _solve(case)
    changed = _scale_floats((instance.problem(1), instance.prior, instance.solver), 0.9)
    arguments = dict(zip(("problem", "prior", "solver"), changed, strict=True))
    key = jax.random.key(19)
    with jax.log_compiles(), caplog.at_level(logging.DEBUG, logger="jax"):
        second = solve(key, **arguments)
    compiled = [r.getMessage() for r in caplog.records if "ompiling" in r.getMessage()]
    assert not compiled, compiled
    assert jnp.max(jnp.abs(first.x - second.x)) > 1e-3


@pytest.mark.slow
def test_compiled_equals_eager(case):
    instance = _instance(case)
    eager = run(KEY, instance.problem(0), instance.prior, instance.solver)
    _assert_same(eager, _solve(case))


def test_stepwise_equals_scan_and_resumes_from_disk(case, tmp_path):
    instance = _instance(case)
    arguments = (KEY, instance.problem(0), instance.prior, instance.solver)
    seen = []

    def watch(state: Any) -> None:
        seen.append(int(state.step))

    def save_and_stop(state: Any) -> bool:
        checkpoint.save(tmp_path / "carry", state)
        return True

    whole = solve_stepwise(*arguments, on_step=watch)
    assert seen == list(range(1, whole.stats.misfit.size + 1))
    _assert_same(whole, _solve(case))
    solve_stepwise(*arguments, on_step=save_and_stop)
    resumed = solve_stepwise(
        *arguments,
        on_step=watch,
        resume=checkpoint.restore(tmp_path / "carry", start(*arguments)),
    )
    chex.assert_trees_all_equal(resumed, whole)


def test_a_batch_is_a_loop_and_reports_honestly(case):
    """One compiled batch: values, isolation of examples, progress and call counts."""
    instance = _instance(case)
    watched = instance._replace(prior=counted(instance.prior))
    steps: list[tuple[int, int]] = []
    with counting() as calls, listen(lambda *at: steps.append(at)):
        batch = jax.block_until_ready(_solve_batch(watched))
    _check_calls(case, calls.copy(), batch)
    num_steps = batch.stats.misfit.shape[1]
    assert sorted(steps) == [(i + 1, num_steps) for i in range(num_steps)]
    for i in range(BATCH):
        alone = _solve(case, i, jax.random.fold_in(KEY, i))
        _assert_same(jax.tree.map(lambda leaf, i=i: leaf[i], batch), alone)
    for ruined in (0, -1):
        _check_isolation(watched, batch, ruined)
        _check_huge(watched, batch, ruined)


def _check_calls(case: Case, calls: Counter[str], batch: Solution) -> None:
    stats, formula = batch.stats, type(case.solver()).cost_formula
    if "inner solver" not in formula:
        assert (jnp.sum(stats.nvjp) > 0) == ("VJP" in formula)
    reported = {"fwd": stats.nfe_fwd, "vjp": stats.nvjp, "jvp": stats.njvp}
    for kind, each in reported.items():
        if kind in case.calls_depend_on_batch:
            assert calls[kind] >= jnp.sum(each)
        else:
            assert calls[kind] == jnp.sum(each)


def _solve_batch(instance: Instance) -> Solution:
    return solve_batch(KEY, instance.problems, instance.prior, instance.solver)


def _check_isolation(instance: Instance, before: Solution, ruined: int) -> None:
    """Ruin one example: it alone must notice."""
    is_label = isinstance(instance.problems.noise, Categorical)
    after = _with_ruined(instance, before, ruined, 0 if is_label else jnp.nan)
    if not is_label:
        assert after.status[ruined] == Status.NONFINITE
        assert jnp.all(jnp.isfinite(after.x))


def _check_huge(instance: Instance, before: Solution, ruined: int) -> None:
    """A finite measurement whose square is infinite: a misfit that is not finite is a
    status."""
    if isinstance(instance.problems.noise, Categorical):
        return
    after = _with_ruined(instance, before, ruined, 1e20)
    assert jnp.all(jnp.isfinite(after.x))
    if after.status[ruined] == Status.OK:
        chex.assert_tree_all_finite(after.stats.misfit[ruined])


def _with_ruined(
    instance: Instance, before: Solution, ruined: int, bad: float
) -> Solution:
    """Solve a batch with one measurement replaced, which the others do not notice."""
    y = jax.tree.map(lambda leaf: leaf.at[ruined].set(bad), instance.problems.y)
    problems = dataclasses.replace(instance.problems, y=y)
    with listen(lambda *_: None):
        after = _solve_batch(instance._replace(problems=problems))
    others = jnp.delete(jnp.arange(BATCH), ruined)
    kept = jax.tree.map(lambda leaf: leaf[others], (before, after))
    chex.assert_trees_all_close(*kept, **EXACT32)
    return after


@pytest.mark.parametrize(
    "case",
    [row for row in _ROWS if row.values[0].calls_depend_on_batch],
    indirect=True,
)
def test_a_solve_alone_counts_its_calls(case):
    instance = _instance(case)
    with counting() as calls:
        prior = counted(instance.prior)
        stats = jax.block_until_ready(_solve(case, prior=prior)).stats
    found = (calls["fwd"], calls["vjp"], calls["jvp"])
    assert found == (stats.nfe_fwd, stats.nvjp, stats.njvp)


def test_keys_are_used_once(case):
    """By the checker behind `jax.debug_key_reuse`, which itself would compile anew."""
    instance = _instance(case)
    check_key_reuse(run, KEY, instance.problem(0), instance.prior, instance.solver)


def test_a_key_that_is_used_twice_is_found():
    with pytest.raises(jax.errors.KeyReuseError):
        check_key_reuse(lambda k: jax.random.normal(k) + jax.random.normal(k), KEY)


def test_a_network_that_returns_nan_is_a_status(case):
    broken = _scale_floats(_instance(case).prior, jnp.nan)
    assert _solve(case, prior=broken).status == Status.NONFINITE


def test_gradients_are_finite(case):
    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1, 2), allow_int=True)
    def gradient(problem: Any, prior: Any, solver: Any) -> jax.Array:
        return jnp.sum(jnp.sin(run(KEY, problem, prior, solver).x))

    instance = _instance(case)
    parts = gradient(instance.problem(0), instance.prior, instance.solver)
    for part in parts:
        leaves = _float_leaves(part)
        chex.assert_tree_all_finite(leaves)
        assert not leaves or any(jnp.any(leaf != 0) for leaf in leaves)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_in_is_dtype_out(case, dtype):
    """Also for single precision data in a program that allows double precision."""
    with jax.enable_x64(dtype == "float64"):
        instance = case.build()
    with jax.enable_x64(True):
        found = jax.eval_shape(
            run, KEY, instance.problem(0), instance.prior, instance.solver
        )
    assert found.x.dtype == found.stats.misfit.dtype == np.dtype(dtype)


def test_missing_capabilities_are_named(case):
    instance = _instance(case)
    name = type(instance.solver).__name__
    with pytest.raises(TypeError, match=f"{name} needs a .* as prior; object is not"):
        _solve(case, prior=object())
    problem = dataclasses.replace(instance.problem(0), operator=object())
    with pytest.raises(TypeError, match=f"{name} needs a.* as operator; object is not"):
        _solve(case, problem=problem)


def _assert_same(found: Solution, expected: Solution) -> None:
    chex.assert_trees_all_close(
        (found.x, found.stats), (expected.x, expected.stats), **REORDER32
    )
    assert found.status == expected.status
