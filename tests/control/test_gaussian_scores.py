"""The conditional score of a Gaussian prior, and what optimal control computes.

Closed forms for prior N(m, C), y = A x0 + sigma n, x = a x0 + sqrt(s2) z:

    conditional: G^T A^T (sigma^2 I + A S A^T)^{-1} (y - A mu),  G = d mu / dx
    Tweedie:     G^T A^T (y - A mu) / sigma^2
    flow:        F^T A^T (y - A x0(x)) / sigma^2,  x0 = m + F (x - a m)
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import sqrtm

from diffctl.control import Recompute, Trajectory, adjoint_pass, rollout
from tests.control.fixture_problem import (
    assert_matches,
    load,
    make_problem,
    mixture,
    mixture_score,
    paths_with,
    zero_controls,
)
from tests.fixture_files import fixture_ids

PATHS = paths_with("doc_score")
each_file = pytest.mark.parametrize("path", PATHS, ids=fixture_ids(PATHS))


def closed_forms(f, scale, variance, x):
    """Return all quantities of one level at one point, by dense algebra."""
    mean, cov = f["mix_means"][0], f["mix_covs"][0]
    matrix, y, noise = f["op_matrix"], f["measurement"], np.square(f["sigma"])
    eye = np.eye(mean.size)
    level_cov = np.square(scale) * cov + variance * eye
    jac = scale * np.linalg.solve(level_cov, cov).T  # d mu / dx
    mu = mean + jac @ (x - scale * mean)
    post_cov = cov - scale * jac @ cov
    flow = np.real(sqrtm(cov)) @ np.linalg.inv(np.real(sqrtm(level_cov)))
    x0 = mean + flow @ (x - scale * mean)
    inside = noise * np.eye(y.size) + matrix @ post_cov @ matrix.T
    return {
        "prior_score": np.linalg.solve(level_cov, scale * mean - x),
        "cond_score": jac.T @ matrix.T @ np.linalg.solve(inside, y - matrix @ mu),
        "tweedie_score": jac.T @ matrix.T @ (y - matrix @ mu) / noise,
        "flow_score": flow.T @ matrix.T @ (y - matrix @ x0) / noise,
        "denoised_mean": mu,
        "denoised_cov": post_cov,
        "flow_x0": x0,
    }


@each_file
def test_closed_forms(path):
    f = load(path)
    levels = list(zip(f["level_scale_full"], f["level_var_full"], strict=True))
    on_path = [
        closed_forms(f, *level, x) for level, x in zip(levels, f["X"], strict=True)
    ]
    for name in on_path[0]:
        found = np.stack([forms[name] for forms in on_path])
        assert_matches(found, f[name], name, 1e-8)
    probed = [
        [closed_forms(f, *level, x) for x in points]
        for level, points in zip(levels, f["probe_x"], strict=True)
    ]
    for name in ("prior_score", "cond_score", "tweedie_score", "flow_score"):
        found = np.stack([[forms[name] for forms in row] for row in probed])
        assert_matches(found, f[f"probe_{name}"], name, 1e-8)


@each_file
def test_prior_score_of_the_test_problem(path):
    f = load(path)
    levels = mixture(f, f["level_scale"], f["level_var"])
    score = jax.jit(jax.vmap(mixture_score))
    found = score(jax.tree.map(jnp.asarray, levels), jnp.asarray(f["X"][:-1]))
    assert_matches(found, f["prior_score"][:-1], "prior_score", 1e-8)


@each_file
def test_posterior(path):
    f = load(path)
    mean, cov = f["mix_means"][0], f["mix_covs"][0]
    matrix, noise = f["op_matrix"], np.square(f["sigma"])
    precision = np.linalg.inv(cov) + matrix.T @ matrix / noise
    right = np.linalg.solve(cov, mean) + matrix.T @ f["measurement"] / noise
    assert_matches(np.linalg.inv(precision), f["posterior_cov"], "posterior_cov", 1e-8)
    mean = np.linalg.solve(precision, right)
    assert_matches(mean, f["posterior_mean"], "posterior_mean", 1e-8)


def control_score(f):
    """Return minus the costate along the uncontrolled trajectory, and its states."""
    problem, controls = make_problem(f), zero_controls(f)
    return _control_score(problem, jnp.asarray(f["x_init"]), controls)


@jax.jit
def _control_score(problem, x_init, controls):
    states = rollout(problem.dynamics, x_init, controls)
    trajectory = Trajectory(states=states, controls=controls)
    return -adjoint_pass(problem, Recompute(), trajectory)[1], states


@each_file
def test_what_optimal_control_computes(path):
    f = load(path)
    score, states = control_score(f)
    assert_matches(states, f["X"], "X", 1e-10)
    assert_matches(score, f["doc_score"], "doc_score", 1e-10)
    matrix, x = f["op_matrix"], f["X"][-1]
    gradient = matrix.T @ (f["measurement"] - matrix @ x) / np.square(f["sigma"])
    assert_matches(score[-1], gradient, "likelihood gradient", 1e-10)


def refined(f, num_steps):
    """Return the same problem with more steps between the same end points."""
    g = dict(f)
    if str(f["sampler"]) == "pf_euler":
        time = np.linspace(f["time"][0], f["time"][-1], num_steps + 1)
        integral = 0.1 * time + 9.95 * np.square(time)
        dt, beta = -np.diff(time), 0.1 + 19.9 * time[:-1]
        g["level_scale"] = np.exp(-0.5 * integral[:-1])
        g["level_var"] = 1 - np.exp(-integral[:-1])
        g["coef_state"], g["coef_score"] = 1 + 0.5 * beta * dt, 0.5 * beta * dt
    else:
        # In sigma = sqrt((1 - ab) / ab) the sampler is an Euler method.
        sigma = np.sqrt((1 - f["alphabar"]) / f["alphabar"])
        knots = np.linspace(0, sigma.size - 1, num_steps)
        fine = np.exp(np.interp(knots, np.arange(sigma.size), np.log(sigma)))
        ab = 1 / (1 + np.square(fine))
        ab_next = np.append(ab[1:], 1.0)
        kept = np.sqrt(1 - ab)
        g["level_scale"], g["level_var"] = np.sqrt(ab), 1 - ab
        g["coef_state"] = np.sqrt(ab_next / ab)
        g["coef_score"] = np.sqrt(ab_next / ab) * (1 - ab) - np.sqrt(1 - ab_next) * kept
    g["control_weight"] = np.ones(num_steps)
    g["n_steps"] = np.asarray(num_steps)
    return g


@each_file
def test_it_tends_to_the_flow_score_and_not_to_the_conditional_score(path):
    f = load(path)
    start = closed_forms(f, f["level_scale"][0], f["level_var"][0], f["x_init"])
    errors = []
    for num_steps in (500, 2000):
        score, _ = control_score(refined(f, num_steps))
        gap = np.linalg.norm(np.asarray(score[0]) - start["flow_score"])
        errors.append(gap / np.linalg.norm(start["flow_score"]))
    # First order in the step size: a quarter of the step, a quarter of the error. The
    # flow of a pf_euler file stops at t = 1e-3, short of x0, hence the floor.
    assert errors[1] < 0.3 * errors[0] + 2e-3, errors
    assert errors[1] < 1e-2, errors
    apart = np.linalg.norm(start["flow_score"] - start["cond_score"])
    assert apart > 0.1 * np.linalg.norm(start["cond_score"])


@each_file
def test_refinement_reproduces_the_file_at_its_own_steps(path):
    f = load(path)
    again = refined(f, int(f["n_steps"]))
    names = ("level_scale", "level_var", "coef_state", "coef_score")
    for name in names:
        assert_matches(again[name], f[name], name, 1e-10)
