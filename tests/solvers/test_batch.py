"""Batches: chunks, names of examples, mapped leaves, devices, and what is refused."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import pytest

from diffctl.core import Status
from diffctl.operators import Categorical, Classifier, GaussianNoise, Problem
from diffctl.pytree import axes
from diffctl.solvers import DPS, check, solve, solve_batch
from tests.solvers.bed import bed, grid, mixture
from tests.tolerances import REORDER32

KEY = jax.random.key(11)
SIZE = 5


def _problems():
    problem = bed().problem()
    y = problem.y[None] + jnp.linspace(-1, 1, SIZE)[:, None]
    return dataclasses.replace(problem, y=y)


def _solver():
    return DPS(grid=grid(3))


@pytest.fixture(scope="module")
def whole():
    return solve_batch(KEY, _problems(), mixture(), _solver())


@pytest.mark.parametrize("chunk_size", [1, 2, SIZE])
def test_chunks_change_nothing(whole, chunk_size):
    found = solve_batch(KEY, _problems(), mixture(), _solver(), chunk_size=chunk_size)
    chex.assert_trees_all_close(found, whole, **REORDER32)


def test_names_decide_the_noise_not_positions(whole):
    problems, ids = _problems(), jnp.asarray([4, 2])
    some = dataclasses.replace(problems, y=problems.y[ids])
    found = solve_batch(KEY, some, mixture(), _solver(), ids=ids)
    expected = jax.tree.map(lambda leaf: leaf[ids], whole)
    chex.assert_trees_all_close(found, expected, **REORDER32)


def test_any_leaf_may_be_mapped():
    problems = dataclasses.replace(
        _problems(), noise=GaussianNoise(std=jnp.linspace(0.2, 0.6, SIZE))
    )
    mapped = Problem(y=0, operator=None, noise=GaussianNoise(std=0))
    found = solve_batch(KEY, problems, mixture(), _solver(), axes=mapped)
    third = Problem(
        y=problems.y[2],
        operator=problems.operator,
        noise=GaussianNoise(std=problems.noise.std[2]),
    )
    alone = solve(jax.random.fold_in(KEY, 2), third, mixture(), _solver())
    chex.assert_trees_all_close(
        jax.tree.map(lambda leaf: leaf[2], found), alone, **REORDER32
    )


def test_a_sweep_is_one_mapped_leaf(whole):
    """Hyper-parameters are leaves: `axes` maps one of them."""
    scales = jnp.linspace(0.0, 1.0, 3)
    solver = dataclasses.replace(_solver(), guidance_scale=scales)
    problem = bed().problem()
    sweep = jax.vmap(solve, in_axes=(None, None, None, axes(solver, guidance_scale=0)))
    found = sweep(KEY, problem, mixture(), solver)
    last = dataclasses.replace(solver, guidance_scale=1.0)
    chex.assert_trees_all_close(
        found.x[2], solve(KEY, problem, mixture(), last).x, **REORDER32
    )


def test_wrong_batches_are_refused():
    problems, arguments = _problems(), (mixture(), _solver())
    with pytest.raises(ValueError, match=r"ids has shape \(2,\) .*expected one whole"):
        solve_batch(KEY, problems, *arguments, ids=jnp.arange(2))
    size = len(problems.y)
    with pytest.raises(ValueError, match="dtype float32; expected one whole number"):
        solve_batch(KEY, problems, *arguments, ids=jnp.arange(size) + 0.5)
    for chunk_size in (0, -3):
        with pytest.raises(ValueError, match=f"chunk_size is {chunk_size}; expected"):
            solve_batch(KEY, problems, *arguments, chunk_size=chunk_size)
    wrong = Problem(y=1, operator=None, noise=None)
    with pytest.raises(ValueError, match="axes holds 1; expected 0"):
        solve_batch(KEY, problems, *arguments, axes=wrong)
    uneven = dataclasses.replace(problems, noise=GaussianNoise(std=jnp.ones(2)))
    mapped = Problem(y=0, operator=None, noise=GaussianNoise(std=0))
    with pytest.raises(ValueError, match=r"batch sizes \[2, 5\]"):
        solve_batch(KEY, uneven, *arguments, axes=mapped)
    with pytest.raises(ValueError, match="chunk_size is 0"):
        solve_batch(KEY, problems, *arguments, chunk_size=0)
    nothing = Problem(y=None, operator=None, noise=None)
    with pytest.raises(ValueError, match="marks 0 leaves"):
        solve_batch(KEY, problems, *arguments, axes=nothing)
    with pytest.raises(ValueError, match="each with a batch axis"):
        solve_batch(KEY, dataclasses.replace(problems, y=jnp.float32(1.0)), *arguments)


@pytest.mark.parametrize("bad", [0.0, -0.3, jnp.nan])
@pytest.mark.parametrize("i", [0, 3])
def test_the_noise_of_every_example_is_checked(i, bad):
    std = jnp.full(SIZE, 0.4).at[i].set(bad)
    problems = dataclasses.replace(_problems(), noise=GaussianNoise(std=std))
    mapped = Problem(y=0, operator=None, noise=GaussianNoise(std=0))
    with pytest.raises(ValueError, match=rf"example {i} of the batch: noise std is"):
        solve_batch(KEY, problems, mixture(), _solver(), axes=mapped)


@pytest.mark.parametrize("i", [0, 2])
def test_the_label_of_every_example_is_checked(i):
    prior = mixture()
    classifier = Classifier.create(lambda x: x[:3], prior.shape)
    labels = jnp.zeros(3, jnp.int32).at[i].set(3)
    problems = Problem(y=labels, operator=classifier, noise=Categorical())
    with pytest.raises(ValueError, match=rf"example {i} of the batch: the label is 3"):
        solve_batch(KEY, problems, prior, _solver())


def test_failures_are_named_by_index(whole):
    assert check(whole) is whole
    status = whole.status.at[jnp.asarray([1, 3])].set(int(Status.NONFINITE))
    failed = dataclasses.replace(whole, status=status)
    with pytest.raises(FloatingPointError, match=r"2 of 5 .* \(indices \[1, 3\]\)"):
        check(failed)


_TWO_DEVICES = """
import re
import chex, jax
from diffctl.solvers import batch, solve_batch
from tests.solvers.test_batch import KEY, _problems, _solver
from tests.solvers.bed import mixture
from tests.tolerances import REORDER32

jax.config.update("jax_disable_most_optimizations", True)
mesh = jax.make_mesh((2,), ("data",))  # as the README makes it
assert mesh.size == 2
arguments = (KEY, _problems(), mixture(), _solver())
seen = []
inner = batch._solve_batch

def spy(*args, **options):
    seen.append(inner.lower(*args, **options).compile())
    return inner(*args, **options)

batch._solve_batch = spy
alone = solve_batch(*arguments)
for chunk_size in (None, 2):
    split = solve_batch(*arguments, mesh=mesh, chunk_size=chunk_size)
    chex.assert_trees_all_close(split, alone, **REORDER32)
    assert split.x.shape == alone.x.shape  # five examples: one copy fills the mesh
    text = seen[-1].as_text()
    assert "num_partitions=2" in text
    found = re.findall(
        "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter", text
    )
    assert not found, found
"""


def test_two_devices_share_the_work_without_talking():
    """In a process of its own, since the device count is fixed at start-up."""
    root = Path(__file__).parents[2]
    flags = "--xla_force_host_platform_device_count=2"
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(root),
    }
    done = subprocess.run(
        [sys.executable, "-c", _TWO_DEVICES],
        cwd=root, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
