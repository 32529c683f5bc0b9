"""Problems that cannot be what their author meant."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from diffctl import operators as ops

SHAPE = (4, 4, 3)


def _good(**changes):
    operator = ops.Mask.half(SHAPE)
    noise = ops.GaussianNoise(std=0.05)
    y = ops.simulate(jax.random.key(0), operator, noise, jnp.full(SHAPE, 0.9))
    problem = ops.Problem(y=y, operator=operator, noise=noise)
    return dataclasses.replace(problem, **changes)


def _stacked(y):
    operator = ops.stack(ops.Identity(shape=SHAPE), ops.Mask.half(SHAPE))
    noise = ops.IndependentNoise(parts=(ops.GaussianNoise(std=0.1),) * 2)
    return ops.Problem(y=y, operator=operator, noise=noise)


def _photons(y, **noise):
    return ops.Problem(
        y=y, operator=ops.Identity(shape=SHAPE), noise=ops.PoissonNoise(**noise)
    )


def _label(y):
    operator = ops.FunctionOperator.create(lambda x: x.mean((0, 1)), SHAPE)
    return ops.Problem(y=y, operator=operator, noise=ops.Categorical())


X = jnp.zeros(SHAPE)
BAD = {
    "shape": (lambda: _good(y=X[:, :2]), r"\(4, 2, 3\); expected \(4, 4, 3\)"),
    "batch": (lambda: _good(y=jnp.zeros((2, *SHAPE))), "use solve_batch"),
    "bytes": (lambda: _good(y=X.astype(jnp.uint8)), "uint8; expected floating-point"),
    "complex": (lambda: _good(y=X + 0j), "complex64; expected floating-point"),
    "nan": (
        lambda: _good(y=X.at[0, 0, 0].set(jnp.nan)),
        "1 NaN or infinite entries of 48",
    ),
    "range": (lambda: _good(y=X + 128.0), "reaches 128 in size.*127.5"),
    "std": (lambda: _good(noise=ops.GaussianNoise(std=0.0)), "noise std is 0.0"),
    "std nan": (
        lambda: _good(noise=ops.GaussianNoise(std=float("nan"))),
        "noise std is nan",
    ),
    "structure": (lambda: _stacked(X), "structure"),
    "part": (lambda: _stacked((X, X[:1])), r"\(1, 4, 3\)"),
    "parts": (
        lambda: _good(noise=ops.IndependentNoise(parts=(ops.GaussianNoise(std=1.0),))),
        "noise has 1 parts",
    ),
    "peak": (lambda: _photons(X, peak=-1.0), "peak is -1.0"),
    "background": (lambda: _photons(X, peak=1.0, background=0.0), "background is 0.0"),
    "photons": (lambda: _photons(X - 5, peak=1.0), "negative photon counts"),
    "label": (
        lambda: _label(jnp.asarray(3)),
        "label is 3; expected an integer from 0 to 2",
    ),
    "label type": (lambda: _label(jnp.asarray(1.0)), "expected an integer"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_problem_is_named(name):
    make, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        ops.validate_problem(make(), SHAPE)


@pytest.mark.parametrize("name", BAD)
def test_known_values_are_looked_at_under_a_trace_too(name):
    make, message = BAD[name]
    problem = make()

    def traced(x):
        ops.validate_problem(problem, SHAPE)
        return x

    with pytest.raises(ValueError, match=message):
        jax.jit(traced)(X)


def test_good_problems_pass():
    ops.validate_problem(_good(), SHAPE)
    ops.validate_problem(_stacked((X, X)))
    ops.validate_problem(_label(2))
    noise = ops.PoissonNoise(peak=30.0)
    ops.validate_problem(_photons(noise.sample(jax.random.key(1), X), peak=30.0))


@pytest.mark.parametrize(
    "shape, message",
    [
        ((4, 4, 1), "3 channels but the prior models 1"),
        ((5, 4, 3), r"models \(5, 4, 3\)"),
    ],
)
def test_operator_and_prior_must_agree(shape, message):
    with pytest.raises(ValueError, match=message):
        ops.validate_problem(_good(), shape)


def test_traced_values_are_not_looked_at():
    @jax.jit
    def run(problem):
        ops.validate_problem(problem, SHAPE)
        return problem.misfit(X)

    assert jnp.isfinite(run(_good(noise=ops.GaussianNoise(std=0.1))))
    run(_good(noise=ops.GaussianNoise(std=-1.0)))
