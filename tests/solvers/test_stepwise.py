"""Stepwise solves: states belong to one solve, stay whole, and survive on disk."""

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl import checkpoint
from diffctl.core import DiffusionPrior, Solver
from diffctl.operators import FunctionOperator, GaussianNoise
from diffctl.operators.base import Operator, Problem
from diffctl.pytree import pytree_dataclass
from diffctl.solvers import DDRM, DPS, SolveState, likelihood, solve_stepwise
from tests.solvers.bed import bed, grid, mixture

KEY = jax.random.key(21)
ROOT = Path(__file__).parents[2]


def arguments(num_steps: int = 4) -> tuple[Any, ...]:
    return KEY, bed().problem(), mixture(), DPS(grid=grid(num_steps))


def _watch(state: SolveState) -> None:
    """Keep nothing and go on."""


def _half(*arguments: Any) -> SolveState:
    """Return the state after two steps."""
    solution = solve_stepwise(*arguments, on_step=lambda state: int(state.step) == 2)
    return solution.carry


def _changed(part: str, change: Any) -> tuple[Any, ...]:
    names = ("key", "problem", "prior", "solver")
    return tuple(
        change(value) if name == part else value
        for name, value in zip(names, arguments(), strict=True)
    )


OTHERS = {
    "another key": ("key", lambda key: jax.random.fold_in(key, 1)),
    "another generator": ("key", lambda key: jax.random.key(21, impl="rbg")),
    "another measurement": (
        "problem",
        lambda problem: dataclasses.replace(problem, y=problem.y.at[1].add(1e-6)),
    ),
    "another noise": (
        "problem",
        lambda problem: dataclasses.replace(problem, noise=GaussianNoise(std=0.41)),
    ),
    "another prior": (
        "prior",
        lambda prior: jax.tree.map(lambda leaf: leaf * 1.01, prior),
    ),
    "other levels": (
        "solver",
        lambda solver: dataclasses.replace(solver, grid=grid(4, 5.0)),
    ),
    "more levels": ("solver", lambda solver: DPS(grid=grid(5))),
    "another scale": (
        "solver",
        lambda solver: dataclasses.replace(solver, guidance_scale=0.4),
    ),
    "another cost": (
        "solver",
        lambda solver: dataclasses.replace(solver, cost=likelihood),
    ),
    "another class": ("solver", lambda solver: DDRM(grid=grid(4))),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_state_of_another_solve_is_refused(name, tmp_path):
    part, change = OTHERS[name]
    others = _changed(part, change)
    state = _half(*arguments())
    state.save(tmp_path / "run")
    message = f"belongs to a solve with another {part}; expected the same key"
    with pytest.raises(ValueError, match=message):
        solve_stepwise(*others, on_step=_watch, resume=state)
    with pytest.raises(ValueError, match=message):
        SolveState.load(tmp_path / "run", *others)
    with pytest.raises(checkpoint.CheckpointError, match="state of another solve"):
        _half(*others).save(tmp_path / "run")
    assert SolveState.load(tmp_path / "run", *arguments()).step == 2


def test_all_that_differs_is_named():
    others = (jax.random.key(0), *_changed("solver", lambda _: DPS(grid=grid(3)))[1:])
    with pytest.raises(ValueError, match="another key and solver; expected"):
        solve_stepwise(*others, on_step=_watch, resume=_half(*arguments()))


def test_equal_numbers_belong_together():
    """A measurement in NumPy and a setting in JAX are those of the same solve."""
    key, problem, prior, solver = arguments()
    same = (
        jax.random.key(21),
        dataclasses.replace(problem, y=np.asarray(problem.y)),
        jax.tree.map(np.asarray, prior),
        dataclasses.replace(solver, guidance_scale=jnp.float32(solver.guidance_scale)),
    )
    state = _half(key, problem, prior, solver)
    solve_stepwise(*same, on_step=_watch, resume=state)


class _Gain:
    """A callable object that changes itself whenever it is traced."""

    def __init__(self, factor: float) -> None:
        self.factor, self.calls = factor, 0

    def __call__(self, x: jax.Array) -> jax.Array:
        self.calls += 1
        return self.factor * x


def _cut() -> Any:
    import numpy as inner

    return lambda x: x[:2] * inner.pi


FUNCTIONS = {
    "objects": (lambda: _Gain(2.0), lambda: _Gain(3.0)),
    "modules": (_cut, lambda: lambda x: x[:2]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_stays_the_same_when_called(name, tmp_path):
    """Of a class or a closure of the user's, also in a process that begins anew."""

    def of(function: Any) -> tuple[Any, ...]:
        operator = FunctionOperator.create(function, mixture().shape)
        problem = Problem(
            operator=operator,
            y=jnp.ones_like(operator(jnp.ones(mixture().shape))),
            noise=GaussianNoise(std=0.5),
        )
        return KEY, problem, mixture(), DPS(grid=grid(4))

    one, another = FUNCTIONS[name]
    given = of(one())
    _half(*given).save(tmp_path / "run")
    for same in (given, of(one())):
        state = SolveState.load(tmp_path / "run", *same)
        solve_stepwise(*same, on_step=_watch, resume=state)
    with pytest.raises(ValueError, match="another problem"):
        SolveState.load(tmp_path / "run", *of(another()))


def test_states_stay_valid():
    states: list[SolveState] = []
    whole = solve_stepwise(*arguments(), on_step=states.append)
    for state in [*states, states[1]]:
        resumed = solve_stepwise(*arguments(), on_step=_watch, resume=state)
        chex.assert_trees_all_equal(resumed, whole)
    assert [int(state.step) for state in states] == [1, 2, 3, 4]


@pytree_dataclass
class _KeepsKeys(Solver):
    """A solver whose carry holds typed keys."""

    inner: DPS
    requires: ClassVar[tuple[type, type]] = (Operator, DiffusionPrior)

    def init(self, key, problem, prior):
        carry, xs = self.inner.init(key, problem, prior)
        return (carry, jax.random.split(jax.random.fold_in(key, 1), 2)), xs

    def step(self, carry, x, problem, prior):
        state, keys = carry
        state, trace = self.inner.step(state, x, problem, prior)
        drawn = jax.random.normal(keys[0], state.shape)
        moved = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
        return (state + 0.1 * drawn, moved), trace

    def finalize(self, carry, problem, prior):
        return carry[0]


def test_keys_in_the_carry_come_back(tmp_path):
    given = (*arguments()[:3], _KeepsKeys(inner=DPS(grid=grid(4))))
    _half(*given).save(tmp_path / "run")
    state = SolveState.load(tmp_path / "run", *given)
    assert jnp.issubdtype(state.carry[1].dtype, jax.dtypes.prng_key)
    resumed = solve_stepwise(*given, on_step=_watch, resume=state)
    chex.assert_trees_all_equal(resumed.x, solve_stepwise(*given, on_step=_watch).x)


def test_a_folder_without_a_state_is_named(tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match="no such folder"):
        SolveState.load(tmp_path / "run", *arguments())
    checkpoint.save(tmp_path / "run", {"step": jnp.zeros(3)})
    with pytest.raises(checkpoint.CheckpointError, match="is not stored"):
        SolveState.load(tmp_path / "run", *arguments())
    with pytest.raises(checkpoint.CheckpointError, match="another solve"):
        _half(*arguments()).save(tmp_path / "run")


def _damage(path: Path, kind: str) -> None:
    content = bytearray(path.read_bytes())
    if kind == "cut":
        del content[len(content) // 2 :]
    elif kind == "flipped":
        content[len(content) // 2] ^= 0xFF
    path.unlink()
    if kind != "lost":
        path.write_bytes(content)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["cut", "flipped", "lost"])
def test_damage_is_found_or_does_not_matter(kind, tmp_path):
    state = _half(*arguments())
    state.save(tmp_path / "whole")
    files = [path for path in (tmp_path / "whole").rglob("*") if path.is_file()]
    found = 0
    for i, path in enumerate(files):
        copy = tmp_path / f"{i}"
        subprocess.run(["cp", "-r", tmp_path / "whole", copy], check=True)
        _damage(copy / path.relative_to(tmp_path / "whole"), kind)
        try:
            again = SolveState.load(copy, *arguments())
        except checkpoint.CheckpointError as error:
            assert "damaged" in str(error)
            found += 1
        else:
            chex.assert_trees_all_equal(again, state)
    assert found > 0


_RUN = """
import sys
import jax
from diffctl import checkpoint
from diffctl.solvers import SolveState, solve_stepwise
from tests.solvers.test_stepwise import arguments

jax.config.update("jax_disable_most_optimizations", sys.argv[2] == "True")
folder, given = sys.argv[1], arguments(60)
resume = SolveState.load(folder, *given) if checkpoint.exists(folder) else None

def on_step(state):
    print("going", flush=True)
    state.save(folder)

solve_stepwise(*given, on_step=on_step, resume=resume)
"""


def _killed_after(seconds: float, folder: Path) -> bool:
    """Run until some time after the first step; return whether it had to be killed."""
    flag = str(jax.config.values["jax_disable_most_optimizations"])
    process = subprocess.Popen(
        [sys.executable, "-c", _RUN, str(folder), flag],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def _kill_often(times: int, folder: Path) -> None:
    """Kill a solve again and again; each time what is left leads to the same end."""
    given, draw = arguments(60), random.Random(7)
    whole = solve_stepwise(*given, on_step=_watch)
    steps_done, kills = 0, 0
    while kills < times:
        kills += _killed_after(draw.uniform(0, 0.25), folder)
        if not checkpoint.exists(folder):
            continue
        state = SolveState.load(folder, *given)
        assert state.step >= steps_done
        steps_done = int(state.step)
        resumed = solve_stepwise(*given, on_step=_watch, resume=state)
        chex.assert_trees_all_equal(resumed, whole)
        if steps_done == 60:
            folder, steps_done = folder.with_name(f"{folder.name}_"), 0
    assert kills == times


def test_a_killed_solve_goes_on(tmp_path):
    _kill_often(2, tmp_path / "run")


@pytest.mark.slow
def test_a_solve_killed_twenty_times_goes_on(tmp_path):
    _kill_often(20, tmp_path / "run")
