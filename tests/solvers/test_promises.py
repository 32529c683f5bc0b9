"""Parts of a solve that return another shape than they promise are named."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from diffctl.core import Solver
from diffctl.operators import Categorical, FunctionOperator, Problem
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers import DPS, solve, solve_batch, solve_stepwise
from diffctl.solvers.driver import run
from tests.contract.cases import CASES
from tests.solvers.bed import SIZE, bed, grid, mixture

KEY = jax.random.key(2)
ROWS = {case.name: case for case in CASES}


def _with(part: Any, method: str, change: Any) -> Any:
    """Return `part` with a method whose result goes through `change`."""
    base = type(part)

    def changed(self, *args: Any) -> Any:
        return change(getattr(super(cls, self), method)(*args))

    cls = pytree_dataclass(type(f"Wrong{base.__name__}", (base,), {method: changed}))
    fields = dataclasses.fields(part)
    return cls(**{field.name: getattr(part, field.name) for field in fields})


def _first(x):
    return x[:1]


def _batched(x):
    return x[None]


def _flat(pair):
    return pair[0].sum(), pair[1]


def _integer(x):
    return x.astype(jnp.int32)


def _complex(x):
    return x + 0j


# Of rows of the contract: which part, which of its methods, what happens to its result.
WRONG = [
    ("dps", "prior", "denoise", _first),
    ("dps", "prior", "denoise", _batched),
    ("dps", "prior", "denoise", jnp.sum),
    ("dps", "prior", "denoise", _integer),
    ("dps", "prior", "denoise", _complex),
    ("dps", "prior", "denoise", lambda x: (x, x)),
    ("annealed_mala", "prior", "log_density", jnp.atleast_1d),
    ("consistency_restoration", "prior", "jump", _first),
    ("latent_daps", "prior", "decode", _first),
    ("latent_dps", "prior", "decode", _batched),
    ("psld", "prior", "encode", _first),
    ("flash", "prior", "estimate_latent", _flat),
    ("hqs", "prior", "prox", _first),
    ("hqs", "prior", "prox", jnp.sum),
    ("chambolle_pock", "prior", "analysis_adjoint", _first),
    ("tikhonov", "prior", "analysis", _batched),
    ("variational", "prior", "score", _first),
    ("density_chain", "prior", "neg_log_density", jnp.atleast_1d),
    ("latent_map", "prior", "decode", _first),
    ("joint_map", "prior", "encode", _flat),
    ("flow_map", "prior", "decode_with_log_det", _flat),
    ("amortised_mean", "prior", "estimate", _first),
    ("amortised_sample", "prior", "decode_given", _first),
    ("ddnm", "operator", "adjoint", _first),
    ("ddrm", "operator", "v", _first),
    ("ddrm", "operator", "v_adjoint", _first),
    ("ddrm", "operator", "u_adjoint", _batched),
    ("dps", "noise", "neg_log_likelihood", jnp.atleast_1d),
]


def _spoiled(name, part, method, change):
    instance = ROWS[name].build()
    problem, prior = instance.problem(0), instance.prior
    if part == "prior":
        prior = _with(prior, method, change)
    else:
        wrong = _with(getattr(problem, part), method, change)
        problem = dataclasses.replace(problem, **{part: wrong})
    return problem, prior, instance.solver


@pytest.mark.parametrize(
    ("name", "part", "method", "change"),
    WRONG,
    ids=[f"{name}-{method}-{i}" for i, (name, _, method, _) in enumerate(WRONG)],
)
def test_a_wrong_shape_is_named(name, part, method, change):
    arguments = _spoiled(name, part, method, change)
    with pytest.raises(ValueError, match=rf"{method} of Wrong\w+ returns .*; expected"):
        solve(KEY, *arguments)


def _shapes(*args):
    return jnp.zeros(1)


SETTINGS = [
    ("dps", {"cost": lambda problem: lambda x: x**2}, "cost"),
    ("doc", {"terminal": lambda problem: lambda x: x[:1]}, "terminal"),
    ("red_diff", {"data_loss": _shapes}, "data_loss"),
    ("pigdm_nonlinear", {"h_pinv": _shapes}, "h_pinv"),
    ("ilvr", {"up": _shapes}, "up"),
    ("density_chain", {"start_from": _shapes}, "start_from"),
]


@pytest.mark.parametrize(("name", "changes", "field"), SETTINGS)
def test_a_wrong_function_is_named(name, changes, field):
    instance = ROWS[name].build()
    solver = dataclasses.replace(instance.solver, **changes)
    with pytest.raises(ValueError, match=rf"{field} of \w+ returns .*; expected"):
        solve(KEY, instance.problem(0), instance.prior, solver)


def test_every_door_refuses():
    problem, prior, solver = _spoiled("dps", "prior", "denoise", _first)
    problems = dataclasses.replace(problem, y=problem.y[None])
    for entry in (
        lambda: solve(KEY, problem, prior, solver),
        lambda: solve_batch(KEY, problems, prior, solver),
        lambda: solve_stepwise(KEY, problem, prior, solver, on_step=lambda _: None),
    ):
        with pytest.raises(ValueError, match=r"float32\(1,\); expected float32\(4,\)"):
            entry()


def test_logits_must_be_a_vector():
    operator = FunctionOperator.create(lambda x: x[:3, None], (SIZE,))
    problem = Problem(y=jnp.int32(1), operator=operator, noise=Categorical())
    with pytest.raises(ValueError, match=r"logits have shape \(3, 1\)"):
        solve(KEY, problem, mixture(), DPS(grid=grid(2)))


@pytree_dataclass
class _Resized(Solver):
    """A solver whose steps, or whose results, have another shape than x."""

    inner: Solver
    method: str = static()

    def init(self, key, problem, prior):
        return self.inner.init(key, problem, prior)

    def step(self, carry, x, problem, prior):
        moved, trace = self.inner.step(carry, x, problem, prior)
        return (moved[:1] if self.method == "step" else moved), trace

    def finalize(self, carry, problem, prior):
        return carry[:1] if self.method == "finalize" else carry


def test_a_step_that_would_be_broadcast_is_named():
    solver = _Resized(inner=DPS(grid=grid(2)), method="step")
    with pytest.raises(ValueError, match="step of _Resized returns"):
        run(KEY, bed().problem(), mixture(), solver)


def test_a_solver_may_return_what_it_likes():
    """Ensembles and features are results, too."""
    solver = _Resized(inner=DPS(grid=grid(2)), method="finalize")
    assert run(KEY, bed().problem(), mixture(), solver).x.shape == (1,)


def test_a_compiled_solve_is_not_checked_again():
    calls = []

    def counted(x):
        calls.append(1)
        return x

    problem, prior, solver = _spoiled("dps", "prior", "denoise", counted)
    solve(KEY, problem, prior, solver)
    traced = len(calls)
    solve(jax.random.key(9), problem, prior, solver)
    assert traced > 0
    assert len(calls) == traced
