"""Settings out of range, labels without residuals: answered before anything runs."""

import jax
import jax.numpy as jnp
import pytest

from diffctl.diffusion import DDIM
from diffctl.operators import FunctionOperator
from diffctl.operators.base import Problem
from diffctl.operators.noise import Categorical
from diffctl.priors import DenoiserProx
from diffctl.solvers import (
    ADMM,
    DAPS,
    DDRM,
    DPS,
    TDS,
    TMPD,
    HutchinsonMoment,
    Langevin,
    MCGdiff,
    PiGDM,
    REDDiff,
    RelativeStep,
    ScoreSDE,
    UnderdampedLangevin,
    solve,
)
from tests.solvers.bed import bed, grid, mixture

KEY = jax.random.key(2)


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        (DDRM(grid=grid(), eta=1.5), "eta of DDRM is 1.5; expected a number from 0 to"),
        (DDRM(grid=grid(), eta_b=-0.1), "eta_b of DDRM is -0.1"),
        (PiGDM(grid=grid(), reverse=DDIM(eta=2.0)), "eta of DDIM is 2.0"),
        (PiGDM(grid=grid(), signal_std=0.0), "signal_std of PiGDM .* positive number"),
        (
            ScoreSDE(grid=grid(), relaxation=jnp.nan),
            "relaxation of ScoreSDE is nan",
        ),
        (ADMM(num_steps=0), "num_steps of ADMM is 0; expected at least 1"),
        (ADMM(num_steps=1, penalty=-1.0), "penalty of ADMM is -1.0; .* a positive"),
        (
            DAPS(grid=grid(), sampler=Langevin(num_steps=0)),
            "num_steps of Langevin is 0; expected at least 1",
        ),
        (
            TMPD(grid=grid(), moment=HutchinsonMoment(num_probes=0)),
            "num_probes of HutchinsonMoment is 0; expected at least 1",
        ),
        (
            DAPS(grid=grid(), sampler=UnderdampedLangevin(momentum=1.0)),
            "momentum of UnderdampedLangevin is 1.0; expected a number from 0 to below",
        ),
        (
            DAPS(grid=grid(), sampler=Langevin(step_size=RelativeStep(fraction=0.0))),
            "fraction of RelativeStep is 0.0; expected a positive number",
        ),
        (
            MCGdiff(grid=grid(), num_particles=2, kappa=0.0),
            "kappa of MCGdiff is 0.0; expected a positive number",
        ),
        (
            DAPS(grid=grid(), sampler=UnderdampedLangevin(momentum=1 - 1e-12)),
            "momentum of .* becomes 1.0 in float32; expected a number from 0 to below",
        ),
        (
            PiGDM(grid=grid(), signal_std=1e-50),
            "signal_std of PiGDM is 1e-50, which becomes 0.0 in float32; exp",
        ),
        (
            TDS(grid=grid(), num_particles=0),
            "num_particles of TDS is 0; expected at least 1",
        ),
    ],
)
def test_settings_out_of_range(solver, message):
    prior = mixture()
    if isinstance(solver, ADMM):
        prior = DenoiserProx(prior=prior)
    with pytest.raises(ValueError, match=message):
        solve(KEY, bed().problem(), prior, solver)


def test_settings_within_a_traced_program_are_not_looked_at():
    jax.eval_shape(
        lambda eta: (
            solve(KEY, bed().problem(), mixture(), DDRM(grid=grid(), eta=eta)).x
        ),
        jnp.asarray(0.5),
    )


@pytest.mark.parametrize(
    "solver", [DPS(grid=grid()), REDDiff(grid=grid())], ids=["dps", "red_diff"]
)
def test_a_label_has_no_residual(solver):
    prior = mixture()
    operator = FunctionOperator.create(jnp.tanh, prior.shape)
    problem = Problem(y=jnp.asarray(1), operator=operator, noise=Categorical())
    with pytest.raises(TypeError, match="Choose a cost on the likelihood"):
        solve(KEY, problem, prior, solver)


def test_a_start_that_inverts_needs_a_linear_operator():
    prior = mixture()
    operator = FunctionOperator.create(jnp.tanh, prior.shape)
    noise = bed().problem().noise
    problem = Problem(y=jnp.zeros(prior.shape), operator=operator, noise=noise)
    solver = REDDiff.released_code("random_inpainting", num_steps=100)
    with pytest.raises(TypeError, match="needs a LinearOperator; FunctionOperator"):
        solve(KEY, problem, prior, solver)
