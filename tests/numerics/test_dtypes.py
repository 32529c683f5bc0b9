"""Nobody names float64 where JAX's default float is meant."""

import ast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffctl
from diffctl.numerics.dtypes import default_float, float_spec
from tests.source import PACKAGES, files, tree_of


def test_the_default_is_single_unless_double_is_enabled():
    assert default_float() == np.float32
    assert float_spec((2, 3)) == jax.ShapeDtypeStruct((2, 3), np.float32)
    with jax.enable_x64(True):
        assert default_float() == np.float64
        assert float_spec((2,)).dtype == np.float64


@pytest.mark.parametrize("numbers", [np.float64, np.float32, float], ids=str)
def test_numbers_of_any_kind_are_solved_without_a_warning(numbers):
    """Warnings are errors here; jax 0.12 warns wherever float64 is asked for."""
    matrix, y = np.eye(3)[:2], np.asarray([0.3, -0.2])
    std = numbers(0.1)
    if numbers is not float:
        matrix, y = matrix.astype(numbers), y.astype(numbers)
    operator = diffctl.operators.LinearFunctionOperator.create(
        lambda x, a: a @ x, (3,), matrix
    )
    problem = diffctl.Problem(
        y=y, operator=operator, noise=diffctl.GaussianNoise(std=std)
    )
    prior = diffctl.priors.GaussianPrior.from_moments(np.zeros(3), np.eye(3))
    solver = diffctl.solvers.DPS(grid=diffctl.grids.karras(4, 0.02, 20.0))
    solution = diffctl.solve(jax.random.key(0), problem, prior, solver)
    assert solution.x.dtype == jnp.float32
    assert operator.measurement_spec().dtype == np.float32


def _names_python_float(call: ast.Call) -> bool:
    arguments = [*call.args, *(word.value for word in call.keywords)]
    return any(isinstance(a, ast.Name) and a.id == "float" for a in arguments)


def test_no_spec_names_python_float():
    """While tracing, `float` as a dtype is float64 whatever JAX's default is."""
    wrong = [
        f"{path}:{node.lineno}"
        for package in PACKAGES
        for path in files(package)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        and "ShapeDtypeStruct" in ast.unparse(node.func)
        and _names_python_float(node)
    ]
    assert not wrong, f"write numerics.dtypes.float_spec(shape) at {wrong}"
