"""Every door inside `jit`, `vmap`, `grad`, `scan` and `shard_map`.

What they are given is closed over or passed, in NumPy, in JAX or traced: checks look at
numbers that are known, and at no others.
"""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from diffctl.core import Status
from diffctl.operators import LinearFunctionOperator, Mask, SubsampledFourier
from diffctl.priors import LinearAutoencoder, Quadratic, Sparsity
from diffctl.solvers import (
    DPS,
    GibbsSchedule,
    check,
    solve,
    solve_batch,
    solve_stepwise,
    tune_weight_by_cross_validation,
    tune_weight_by_discrepancy,
)
from tests.contract.cases import CASES
from tests.solvers.bed import SIZE, bed, grid, mixture
from tests.tolerances import REORDER32

KEY = jax.random.key(5)
ROWS = {case.name: case for case in CASES}


def _one(key, instance):
    return solve(key, instance.problem(0), instance.prior, instance.solver).x


def _many(key, instance):
    return solve_batch(key, instance.problems, instance.prior, instance.solver).x


def _by_steps(key, instance):
    arguments = (key, instance.problem(0), instance.prior, instance.solver)
    return solve_stepwise(*arguments, on_step=lambda state: None).x


DOORS = {"solve": _one, "solve_batch": _many, "solve_stepwise": _by_steps}


def _in_numpy(tree):
    return jax.tree.map(np.asarray, tree)


def _closed_over(door, instance):
    return jax.jit(lambda key: door(key, instance)), KEY


def _closed_over_in_numpy(door, instance):
    return _closed_over(door, _in_numpy(instance))


def _passed(door, instance):
    return jax.jit(lambda instance: door(KEY, instance)), instance


def _passed_in_numpy(door, instance):
    return _passed(door, _in_numpy(instance))


def _over_keys(door, instance):
    return jax.vmap(lambda key: door(key, instance)), jax.random.split(KEY, 2)


def _over_settings(door, instance):
    def one(scale):
        solver = dataclasses.replace(instance.solver, guidance_scale=scale)
        return door(KEY, instance._replace(solver=solver))

    return jax.vmap(one), jnp.array([0.5, 1.0])


def _gradient_in_y(door, instance):
    def total(problems):
        return jnp.sum(door(KEY, instance._replace(problems=problems)))

    return jax.jit(jax.grad(total)), instance.problems


def _gradient_in_prior(door, instance):
    def total(prior):
        return jnp.sum(door(KEY, instance._replace(prior=prior)))

    return jax.grad(total), instance.prior


def _in_a_scan(door, instance):
    def body(total, key):
        return total + jnp.sum(door(key, instance)), None

    return lambda keys: jax.lax.scan(body, 0.0, keys)[0], jax.random.split(KEY, 2)


def _on_a_mesh(door, instance):
    each = jax.vmap(lambda key: door(key, instance))
    mesh = Mesh(np.asarray(jax.devices()[:1]), ("data",))
    split = PartitionSpec("data")
    return (
        jax.shard_map(each, mesh=mesh, in_specs=split, out_specs=split),
        jax.random.split(KEY, 2),
    )


PLACES = (
    _closed_over,
    _closed_over_in_numpy,
    _passed,
    _passed_in_numpy,
    _over_keys,
    _over_settings,
    _gradient_in_y,
    _gradient_in_prior,
    _in_a_scan,
    _on_a_mesh,
)


@functools.cache
def _instance(name):
    return ROWS[name].build()


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__[1:])
@pytest.mark.parametrize("door", DOORS)
def test_every_door_can_be_traced(door, place):
    function, argument = place(DOORS[door], _instance("dps"))
    jax.eval_shape(function, argument)


# Those with checks of their own, and with inner loops, which `shard_map` is strict on.
@pytest.mark.parametrize("place", [_closed_over, _on_a_mesh])
@pytest.mark.parametrize(
    "name",
    [
        "doc",
        "doc_ilqr",
        "dds_views",
        "resample",
        "flash",
        "latent_chain",
        "annealed_mala",
        "tds_class",
        "mcgdiff",
        "cpigdm",
        "pnp_dm",
        "latent_daps",
        "dps_counts",
        "tikhonov",
        "admm_tv",
        "chambolle_pock",
    ],
)
def test_solvers_with_more_checks_can_be_traced(name, place):
    function, argument = place(_one, _instance(name))
    jax.eval_shape(function, argument)


@pytest.mark.parametrize("door", DOORS)
def test_a_traced_solve_is_the_same(door):
    function, argument = _closed_over(DOORS[door], _instance("dps"))
    expected = DOORS[door](KEY, _instance("dps"))
    chex.assert_trees_all_close(function(argument), expected, **REORDER32)


@pytest.mark.parametrize("name", ["dps", "pnp_dm", "mcgdiff", "red_diff", "tmpd"])
def test_everything_may_be_made_inside(name):
    def made_inside(key):
        return _one(key, ROWS[name].build())

    jax.eval_shape(jax.jit(made_inside), KEY)


IMAGE, WEIGHT = jnp.ones((4, 4, 1)), jnp.float32(0.3)
THREES, DECODER = np.full((4, 4, 1), 3.0), jnp.eye(4)[:, :2]
FACTORIES = {
    "mask": lambda: Mask.from_array(IMAGE, IMAGE.shape),
    "fourier": lambda: SubsampledFourier.from_array(np.ones((4, 4)), IMAGE.shape),
    "function": lambda: LinearFunctionOperator.create(lambda x: 2 * x, (4, 4, 1)),
    "autoencoder": lambda: LinearAutoencoder.from_decoder(DECODER),
    "regulariser": lambda: Sparsity.cosines(IMAGE.shape, WEIGHT),
    "grid": lambda: GibbsSchedule.create([2.0, 1.0], grid(3)),
}
REFUSED = {
    "mask": (lambda: Mask.from_array(THREES, IMAGE.shape), "other than 0 and 1"),
    "fourier": (
        lambda: SubsampledFourier.from_array(THREES[..., 0], IMAGE.shape),
        "other than 0 and 1",
    ),
    "autoencoder": (lambda: LinearAutoencoder.from_decoder(np.ones((4, 2))), "rank 1"),
}


@pytest.mark.parametrize("name", FACTORIES)
def test_factories_work_under_a_trace(name):
    jax.eval_shape(FACTORIES[name])


@pytest.mark.parametrize("name", REFUSED)
def test_factories_refuse_known_numbers_under_a_trace(name):
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(make)


def test_weights_are_tuned_under_a_trace():
    problem, prior = bed().problem(), Quadratic.create((SIZE,), 1.0)

    def tune(key):
        weights = jnp.array([0.5, 2.0])
        return (
            tune_weight_by_discrepancy(problem, prior).weight,
            tune_weight_by_cross_validation(key, problem, prior, weights).weight,
        )

    jax.eval_shape(tune, KEY)


def test_a_failed_solution_is_found_under_a_trace():
    solution = solve(KEY, bed().problem(), mixture(), DPS(grid=grid(2)))
    failed = dataclasses.replace(solution, status=jnp.int32(Status.NONFINITE))
    with pytest.raises(FloatingPointError, match="1 of 1"):
        jax.eval_shape(lambda: check(failed).x)
