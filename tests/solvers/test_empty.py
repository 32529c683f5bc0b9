"""Measurements of nothing, and other averages over no entries."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.core import Status
from diffctl.metrics import accuracy, mse
from diffctl.numerics import Descent
from diffctl.operators import FunctionOperator, GaussianNoise, Mask, Problem
from diffctl.priors import CycleSpinning, GaussianPrior, Quadratic
from diffctl.solvers import (
    DPS,
    DMPlug,
    averaged_residual,
    solve,
    solve_batch,
    tune_weight_by_cross_validation,
    tune_weight_by_discrepancy,
)
from diffctl.solvers.costs import mean_squared_residual
from diffctl.solvers.latent.fit import Fit
from diffctl.training import Dataset, classification_accuracy, denoising_error
from tests.solvers.bed import bed, grid

KEY = jax.random.key(1)
SHAPE = (2, 2, 1)


def _prior():
    return GaussianPrior.from_moments(np.zeros(SHAPE), np.eye(4))


def _nothing():
    operator = Mask.from_array(np.zeros(SHAPE), SHAPE)
    return Problem(y=jnp.zeros(SHAPE), operator=operator, noise=GaussianNoise(std=0.1))


def test_the_mean_of_no_residuals_is_zero():
    cost = mean_squared_residual(_nothing())
    value, gradient = jax.value_and_grad(cost)(jnp.ones(SHAPE))
    chex.assert_trees_all_equal((value, gradient), (jnp.zeros(()), jnp.zeros(SHAPE)))


def test_the_mean_of_some_residuals_is_over_those_observed():
    mask = jnp.zeros(SHAPE).at[0].set(1)
    problem = dataclasses.replace(_nothing(), operator=Mask.from_array(mask, SHAPE))
    chex.assert_trees_all_close(mean_squared_residual(problem)(3 * jnp.ones(SHAPE)), 9)


def test_dmplug_without_a_measurement_samples():
    solver = DMPlug(grid=grid(2), num_steps=3)
    solution = solve(KEY, _nothing(), _prior(), solver)
    assert solution.status == Status.OK
    chex.assert_tree_all_finite((solution.x, solution.stats.misfit))


def test_a_fit_to_nothing_stays():
    fit = Fit(descent=Descent.adam(0.1), num_steps=3, anchor=0.5)
    chex.assert_trees_all_equal(fit(_nothing(), jnp.ones(SHAPE)), jnp.ones(SHAPE))


def _no_entries(x):
    return x.ravel()[:0]


def test_a_measurement_without_entries_is_solved():
    operator = FunctionOperator.create(_no_entries, SHAPE)
    problem = Problem(y=jnp.zeros(0), operator=operator, noise=GaussianNoise(std=0.1))
    solution = solve(KEY, problem, _prior(), DPS(grid=grid(2)))
    assert solution.status == Status.OK
    for cost in (
        mean_squared_residual(problem),
        lambda x: averaged_residual(problem, x),
    ):
        assert cost(jnp.ones(SHAPE)) == 0


def test_weights_are_not_tuned_by_nothing():
    prior = Quadratic.create(SHAPE, 1.0)
    with pytest.raises(ValueError, match="the operator observes nothing"):
        tune_weight_by_cross_validation(KEY, _nothing(), prior, jnp.ones(2))
    with pytest.raises(ValueError, match="the misfit is 0 with weight"):
        tune_weight_by_discrepancy(_nothing(), prior)


def test_averages_over_nothing_are_refused():
    images = jnp.zeros((0, *SHAPE))
    dataset = Dataset(images=np.zeros((3, *SHAPE)), labels=np.zeros(3, int))
    problems = dataclasses.replace(bed().problem(), y=jnp.zeros((0, 3)))
    spinning = CycleSpinning(inner=Quadratic.create(SHAPE, 1.0), shifts=())
    for work, message in (
        (lambda: denoising_error(_prior(), images, jnp.ones(()), KEY), "no images"),
        (lambda: classification_accuracy(jnp.ravel, images, images), "no images"),
        (lambda: accuracy(jnp.zeros((0, 3)), jnp.zeros(0, int)), "no labels"),
        (lambda: mse(images, images), "has no pixels"),
        (lambda: dataset.batch(0, 0, 0), "batch size is 0; expected 1 to 3"),
        (lambda: spinning.prox(jnp.ones(SHAPE), 1.0), "shifts is empty"),
        (
            lambda: solve_batch(KEY, problems, bed().prior(), DPS(grid=grid(2))),
            "the batch is empty",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            work()
