"""C-PiGDM against its flow, its published integrals, DDIM and DDNM."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp

from diffctl.core import DiffusionPrior
from diffctl.diffusion import DDIM, DDPM, EDM, VE, VP, Euler, NoiseGrid, vp_uniform
from diffctl.operators import FunctionOperator, GaussianNoise, Problem
from diffctl.pytree import pytree_dataclass
from diffctl.solvers import (
    DDNM,
    ConjugatePiGDM,
    ExpandedConjugatePiGDM,
    NoisyConjugatePiGDM,
    NonlinearConjugatePiGDM,
    PiGDM,
    solve,
)
from diffctl.solvers.conjugate import exactly_measured, few_steps, unmeasured
from tests.solvers import oracle
from tests.solvers.bed import SIZE, bed, draws, grid, mixture
from tests.tolerances import EXACT64

KEY = jax.random.key(9)
STD = 0.1
VALUES = (1.0, 0.6, 0.2, 0.0)
BOTH = [ConjugatePiGDM, NoisyConjugatePiGDM]


def _setting():
    """Singular values from 1 to 0, and a measurement."""
    a, _ = oracle.matrix(VALUES)
    return a, a @ np.linspace(-0.8, 0.9, SIZE) + STD * np.linspace(1, -1, SIZE)


def _start(kind, sigma):
    a, y = _setting()
    guess = np.linalg.pinv(a, rcond=1e-10) @ y
    if kind is NoisyConjugatePiGDM:
        gram = a @ a.T + STD**2 * (1 + sigma**2) / sigma**2 * np.eye(SIZE)
        guess = a.T @ np.linalg.solve(gram, y)
    return guess + sigma * draws(KEY, (SIZE,), 1)[0]


def _flow(kind, weight, x, sigma_max):
    """dx/dsigma = eps_hat - w sigma / (1 + sigma^2) J^T pull, to high accuracy."""
    law = bed()
    a, y = _setting()

    def velocity(sigma, x):
        precision = np.linalg.inv(law.covariance + sigma**2 * np.eye(SIZE))
        jacobian = law.covariance @ precision
        residual = y - a @ (law.mean + jacobian @ (x - law.mean))
        pull = np.linalg.pinv(a, rcond=1e-10) @ residual
        if kind is NoisyConjugatePiGDM:
            gram = a @ a.T + STD**2 * (1 + sigma**2) / sigma**2 * np.eye(SIZE)
            pull = a.T @ np.linalg.solve(gram, residual)
        eps = sigma * precision @ (x - law.mean)
        return eps - weight * sigma / (1 + sigma**2) * jacobian.T @ pull

    span = (sigma_max, 1e-9)
    return solve_ivp(velocity, span, x, rtol=1e-10, atol=1e-12, method="LSODA").y[:, -1]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(("weight", "tilt"), [(2.0, 0.0), (15.0, 0.0), (2.0, -0.5)])
def test_it_converges_to_its_flow_at_first_order(kind, weight, tilt):
    law, (a, y) = bed(), _setting()
    problem = oracle.problem(a, y, STD)
    errors = []
    for num_steps in (200, 400):
        levels = few_steps(num_steps)
        solver = kind(grid=levels, guidance_scale=weight, tilt=tilt)
        found = solve(KEY, problem, law.prior(), solver).x
        sigma = float(levels.sigma[0])
        exact = _flow(kind, weight, _start(kind, sigma), sigma)
        errors.append(np.linalg.norm(found - exact))
    assert errors[1] < 0.03
    # Measured: between 0.49 and 0.51.
    assert 0.46 < errors[1] / errors[0] < 0.54


def _vp():
    """Return b, beta = db/dt and the scales of signal and noise over VP time."""

    def b(t):
        return 0.1 * t + 9.95 * t**2

    def beta(t):
        return 0.1 + 19.9 * t

    def mu(t):
        return np.exp(-b(t) / 2)

    def std(t):
        return np.sqrt(-np.expm1(-b(t)))

    return b, beta, mu, std


def _published(weight, tilt, seen, first, last):
    """The integrals of the paper over VP time, for data seen `seen(b)` with slope.

    Returns the weights of x0_hat, y, eps and g for x = x_vp / mu.
    """
    psi, kappa = seen
    b, beta, mu, std = _vp()

    def change(t):
        return np.exp(tilt * t + b(t) / 2 - weight * psi(b(t)) / 2)

    def integral(rate):
        return quad(rate, first, last, epsabs=1e-13, epsrel=1e-12)[0]

    on_x = change(first) * (1 + tilt * (last - first))
    on_eps = integral(
        lambda t: change(t) * beta(t) / 2
        * (1 / std(t) - weight * std(t) * kappa(b(t)))
    )  # fmt: skip
    on_y = integral(lambda t: -change(t) * weight * beta(t) * mu(t) * kappa(b(t)) / 2)
    on_g = integral(lambda t: change(t) * weight * beta(t) * std(t) * mu(t) / 2)
    raw = np.asarray([on_x * mu(first), on_y, on_x * std(first) + on_eps, on_g])
    return raw / change(last) / mu(last)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("tilt", [0.0, -0.6, 0.2])
@pytest.mark.parametrize("weight", [0.7, 15.0])
def test_coefficients_are_the_published_integrals(weight, tilt):
    """Whose integrands are not those of the code: that integrates by parts."""
    q = STD**2 / 0.2**2
    share = q / (1 + q)

    def noisy(sigma):
        power = sigma**2
        return jnp.log1p(power) - share * jnp.log1p(power / share)

    def noisy_psi(b):
        return b - share * np.log(((1 + q) * np.exp(b) - 1) / q)

    def noisy_slope(b):
        return -np.expm1(-b) / (-np.expm1(-b) + q)

    cases = [
        (unmeasured, (lambda b: 0.0, lambda b: 0.0)),
        (exactly_measured, (lambda b: b, lambda b: 1.0)),
        (noisy, (noisy_psi, noisy_slope)),
    ]
    solver = ConjugatePiGDM(grid=grid(), guidance_scale=weight, tilt=tilt)
    levels = vp_uniform(2, time_max=0.4, time_min=0.2)
    now, next = jax.tree.map(lambda leaf: leaf[0], levels.pairs())
    for psi, seen in cases:
        found = _as_list(solver.coefficients(psi, now, next))
        expected = _published(weight, tilt, seen, 0.4, 0.2)
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)


def _as_list(found):
    return np.ravel([found.on_x0, found.on_y, found.on_eps, found.on_g])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("schedule", [VP(), EDM()], ids=["vp", "edm"])
@pytest.mark.parametrize("q", [1e-4, 0.01, 0.25])
def test_coefficients_of_the_last_step_and_in_any_time(q, schedule):
    """Of (4) by adaptive quadrature over the time, down to the clean level."""
    weight, tilt, share = 2.0, -0.3, q / (1 + q)
    now, next = oracle.level(0.27), oracle.level(0.0)
    first = float(schedule.time(0.27))

    def psi(sigma):
        power = jnp.asarray(sigma) ** 2
        return jnp.log1p(power) - share * jnp.log1p(power / share)

    def decay(t):
        seen = psi(schedule.sigma(jnp.asarray(t)))
        return float(jnp.exp(tilt * t - weight * seen / 2))

    def integral(rate, end):
        return quad(rate, 0, end, epsabs=1e-13, epsrel=1e-11)[0]

    end = decay(first)
    expected = [
        (1 - tilt * first) * end,
        1 - end + tilt * integral(decay, first),
        -tilt * first * end * 0.27
        + tilt * integral(lambda t: decay(t) * float(schedule.sigma(t)), first),
        -weight
        * integral(
            lambda u: decay(schedule.time(jnp.sinh(u))) * np.tanh(u) ** 2,
            np.arcsinh(0.27),
        ),
    ]
    solver = NoisyConjugatePiGDM(
        grid=grid(), guidance_scale=weight, tilt=tilt, schedule=schedule
    )
    found = _as_list(solver.coefficients(psi, now, next))
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)


def test_a_schedule_without_a_clean_level_is_refused():
    a, y = _setting()
    solver = ConjugatePiGDM(grid=grid(), schedule=VE())
    with pytest.raises(TypeError, match=r"VE does not have. Use VP\(\) or EDM\(\)"):
        solve(KEY, oracle.problem(a, y, STD), mixture(), solver)


def test_levels_beyond_a_discrete_schedule_are_refused_where_times_count():
    a, y = _setting()
    problem, schedule = oracle.problem(a, y, STD), DDPM.linear(50)
    high = NoiseGrid.from_sigmas([2 * float(schedule.sigma(49)), 1.0])
    solver = ConjugatePiGDM(grid=high, schedule=schedule, tilt=0.1)
    with pytest.raises(ValueError, match="outside of the schedule DDPM"):
        solver.check(problem, mixture())
    # Without a tilt no time is looked at.
    dataclasses.replace(solver, tilt=0.0).check(problem, mixture())


def _rounded(x):
    """Quantise to multiples of 0.5; rounding again changes nothing."""
    return jnp.round(2 * x) / 2


@pytest.mark.usefixtures("x64")
def test_the_nonlinear_form_projects_every_part_of_a_step():
    """For a quantiser, whose h^+ is the identity, against the formula."""
    operator = FunctionOperator.create(_rounded, (SIZE,))
    y = _rounded(jnp.linspace(-0.8, 0.9, SIZE))
    problem = Problem(y=y, operator=operator, noise=GaussianNoise(std=STD))
    law, weight = bed(), 3.0
    solver = NonlinearConjugatePiGDM(
        grid=grid(), guidance_scale=weight, h_pinv=lambda _, y: y
    )
    now, next = (jax.tree.map(lambda leaf: leaf[1], at) for at in grid().pairs())
    x = jnp.linspace(-2, 1, SIZE)
    moved, _ = solver.step(x, (now, next, KEY), problem, law.prior())

    sigma = float(now.sigma)
    estimate, jacobian = law.denoise(np.asarray(x), sigma), law.jacobian(sigma)
    eps = (x - estimate) / sigma
    pull = y - _rounded(estimate)
    g = np.sqrt(1 + sigma**2) / sigma * (pull - jacobian.T @ pull)
    free = solver.coefficients(unmeasured, now, next)
    extra = solver.extra(exactly_measured, now, next)
    expected = free.on_x0 * estimate + free.on_eps * eps + free.on_g * g
    expected += extra.on_x0 * _rounded(estimate) + extra.on_eps * _rounded(eps)
    expected += extra.on_g * _rounded(g) + extra.on_y * y
    np.testing.assert_allclose(moved, expected, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_closed_form_of_the_jacobian_term():
    """Unmeasured directions: F = w (log((1 + s) / (1 - s)) - 2 s) / 2, also to 0."""
    solver = ConjugatePiGDM(grid=grid(), guidance_scale=3.0)
    for pair in ((2.0, 1.0), (0.3, 0.0)):
        now, next = map(oracle.level, pair)
        std = np.asarray(pair) / np.sqrt(1 + np.asarray(pair) ** 2)
        closed = 1.5 * (np.log((1 + std) / (1 - std)) - 2 * std)
        found = solver.coefficients(unmeasured, now, next).on_g
        np.testing.assert_allclose(found, closed[1:] - closed[:1], **EXACT64)


def _unguided(prior, x, levels):
    for i in range(levels.num_steps):
        now, next = jax.tree.map(lambda leaf, i=i: leaf[i], levels.pairs())
        x = Euler()(prior, x, now, next)
    return x


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", BOTH)
def test_without_guidance_it_is_ddim(kind):
    """For a tilt of 0 with the same arithmetic: no quadrature is left."""
    a, y = _setting()
    solver = kind(grid=grid(), guidance_scale=0.0)
    found = solve(KEY, oracle.problem(a, y, STD), mixture(), solver).x
    start = _start(kind, float(grid().sigma[0]))
    expected = _unguided(mixture(), jnp.asarray(start), grid())
    np.testing.assert_allclose(found, expected, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_the_noise_free_form_is_the_limit_of_the_noisy_one():
    law, gaps = bed(), []
    for std in (1e-4, 1e-6):
        problem = dataclasses.replace(law.problem(), noise=GaussianNoise(std=std))
        ends = [
            solve(KEY, problem, mixture(), kind(grid=grid(), guidance_scale=3.0)).x
            for kind in BOTH
        ]
        gaps.append(np.max(np.abs(ends[0] - ends[1])))
    # Of the order of q log(1 / q), q = (std / s)^2.
    assert gaps[0] < 1e-4
    assert gaps[1] < 1e-3 * gaps[0]


@pytree_dataclass
class ConstantNoise(DiffusionPrior):
    """D(x) = x - sigma eps: the predicted noise has no derivative."""

    eps: jax.Array

    @property
    def shape(self):
        return self.eps.shape

    def denoise(self, x, sigma):
        return x - sigma * self.eps


@pytest.mark.usefixtures("x64")
def test_strong_guidance_is_ddnm_where_the_noise_has_no_derivative():
    a, y = _setting()
    problem, x = oracle.problem(a, y, STD), jnp.linspace(-1, 2, SIZE)
    prior = ConstantNoise(eps=jnp.linspace(1, -1, SIZE))
    at = (oracle.level(1.5), oracle.level(0.5))
    strong = ConjugatePiGDM(grid=grid(), guidance_scale=1e4)
    found, _ = strong.step(x, (*at, KEY), problem, prior)
    ddnm = DDNM(grid=grid(), eta=0.0)
    expected, _ = ddnm.step(x, (*at, at[1], KEY), problem, prior)
    np.testing.assert_allclose(found, expected, **EXACT64)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", BOTH)
def test_unmeasured_directions_follow_ddim_but_for_the_jacobian(kind):
    law, (a, y) = bed(), _setting()
    _, right = oracle.matrix(VALUES)
    solver = kind(grid=grid(), guidance_scale=2.0)
    now, next = oracle.level(1.5), oracle.level(0.5)
    problem, x = oracle.problem(a, y, STD), jnp.linspace(-1, 2, SIZE)
    moved, _ = solver.step(x, (now, next, KEY), problem, law.prior())
    free = Euler()(law.prior(), x, now, next)
    jacobian, x0_hat = law.jacobian(1.5), law.denoise(np.asarray(x), 1.5)
    pull = solver.pull(problem, jnp.asarray(x0_hat), now.sigma)
    g = np.sqrt(1 + 1.5**2) / 1.5 * (np.eye(SIZE) - jacobian.T) @ pull
    on_g = float(solver.coefficients(unmeasured, now, next).on_g[0])
    last = right[:, -1]
    assert abs(on_g * last @ g) > 1e-2
    np.testing.assert_allclose(last @ (moved - free), on_g * last @ g, **EXACT64)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("tilt", [0.0, -0.3])
@pytest.mark.parametrize("kind", BOTH)
def test_a_step_puts_every_term_in_its_direction(kind, tilt):
    """Against explicit singular vectors; the coefficients are tested above."""
    law, (a, y) = bed(), _setting()
    left, s, right = np.linalg.svd(a)
    solver = kind(grid=grid(), guidance_scale=3.0, tilt=tilt)
    now, next = oracle.level(1.5), oracle.level(0.5)
    problem, x = oracle.problem(a, y, STD), np.linspace(-1, 2, SIZE)
    moved, _ = solver.step(jnp.asarray(x), (now, next, KEY), problem, law.prior())
    x0_hat, jacobian = law.denoise(x, 1.5), law.jacobian(1.5)
    pull = np.asarray(solver.pull(problem, jnp.asarray(x0_hat), now.sigma))
    g = np.sqrt(1 + 1.5**2) / 1.5 * (np.eye(SIZE) - jacobian.T) @ pull
    parts = [right @ x0_hat, 0 * y, right @ (x - x0_hat) / 1.5, right @ g]
    expected = []
    for i, value in enumerate(s):
        psi = unmeasured
        if value > 1e-9:
            parts[1][i] = left[:, i] @ y / value
            psi = exactly_measured if kind is ConjugatePiGDM else _noisy(value)
        weights = solver.coefficients(psi, now, next)
        order = (weights.on_x0, weights.on_y, weights.on_eps, weights.on_g)
        expected.append(
            sum(w[0] * part[i] for w, part in zip(order, parts, strict=True))
        )
    np.testing.assert_allclose(right @ moved, expected, **EXACT64)


def _noisy(value):
    share = STD**2 / (value**2 + STD**2)
    return lambda sigma: jnp.log1p(sigma**2) - share * jnp.log1p(sigma**2 / share)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "solver",
    [
        NoisyConjugatePiGDM(grid=few_steps(5)),
        PiGDM(grid=few_steps(5), reverse=DDIM(eta=0.0)),
    ],
    ids=["conjugate", "ddim"],
)
def test_directions_of_tiny_singular_values_are_as_good_as_unmeasured(solver):
    ends = []
    for tiny in (1e-5, 0.0):
        a, _ = oracle.matrix((1.0, 0.6, 0.2, tiny))
        y = a @ np.linspace(-0.8, 0.9, SIZE) + STD * np.linspace(1, -1, SIZE)
        ends.append(solve(KEY, oracle.problem(a, y, STD), mixture(), solver).x)
    # From A^+ y the noise of 0.1 would enter as 0.1 / 1e-5.
    np.testing.assert_allclose(*ends, rtol=0, atol=1e-3)


def _released(weight, tilt, q, first, last):
    """The weights of x0_hat, y, eps and g, as the released code integrates them.

    k0, c2 and c3 are its coefficients, with a first-order inverse; q = (s_y / s_i)^2.
    """
    b, beta, mu, std = _vp()

    def k0(t):
        return tilt * t + b(t) / 2

    def c2(t):
        return -weight * b(t) / 2

    def c3(t):
        return weight / 2 * np.expm1(k0(t) + c2(t)) * np.log(np.expm1(b(t)) + 1e-6)

    def change(rate):
        return quad(rate, first, last, epsabs=1e-13, epsrel=1e-12)[0]

    def score(t):
        p1 = np.exp(k0(t)) / std(t)
        p2 = np.exp(k0(t)) * np.expm1(c2(t)) / std(t)
        p2 -= weight * std(t) * np.exp(k0(t) + c2(t))
        return beta(t) / 2 * (p1 + p2 + c3(t) * q * (1 / std(t) - weight * std(t)))

    def jacobian(t):
        both = np.exp(k0(t)) * (1 + np.expm1(c2(t))) + c3(t) * q
        return weight * beta(t) / 2 * std(t) * mu(t) * both

    def data(t):
        both = np.exp(k0(t) + c2(t)) + c3(t) * q
        return -weight * beta(t) / 2 * mu(t) * both

    kept = np.exp(k0(first) + c2(first)) + c3(first) * q
    kept *= 1 + tilt * (last - first)
    inverse = np.exp(-k0(last)) * (1 + np.expm1(-c2(last)))
    back = inverse - inverse * c3(last) * q * inverse
    return (
        back
        / mu(last)
        * np.asarray(
            [
                kept * mu(first),
                change(data),
                kept * std(first) + change(score),
                change(jacobian),
            ]
        )
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("weight", "tilt"), [(2.0, -0.15), (0.7, 0.0), (15.0, 0.2)])
def test_the_expansion_has_the_integrals_of_the_released_code(weight, tilt):
    q = STD**2 / np.asarray([1.0, 0.6, 0.2]) ** 2
    solver = ExpandedConjugatePiGDM(grid=grid(), guidance_scale=weight, tilt=tilt)
    levels = vp_uniform(2, time_max=0.4, time_min=0.2)
    now, next = jax.tree.map(lambda leaf: leaf[0], levels.pairs())
    found = solver.expanded(jnp.asarray(q), now, next)
    expected = [_released(weight, tilt, one, 0.4, 0.2) for one in q]
    found = [found.on_x0, found.on_y, found.on_eps, found.on_g]
    np.testing.assert_allclose(found, np.transpose(expected), rtol=1e-8, atol=1e-10)


@pytest.mark.usefixtures("x64")
def test_the_expansion_without_noise_is_the_noise_free_form():
    """The same integrals with and without integration by parts, also to 0."""
    solver = ExpandedConjugatePiGDM(grid=grid(), guidance_scale=3.0, tilt=-0.2)
    for pair in ((1.5, 0.5), (0.3, 0.0)):
        now, next = map(oracle.level, pair)
        found = solver.expanded(jnp.zeros(1), now, next)
        expected = solver.coefficients(exactly_measured, now, next)
        chex.assert_trees_all_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.usefixtures("x64")
def test_the_expansion_does_not_converge_to_the_flow_of_noisy_measurements():
    """More steps halve the error of the correct method, and none of the expansion's."""
    law, (a, y) = bed(), _setting()
    _, right = oracle.matrix(VALUES)
    small, problem = right[:, 2], oracle.problem(a, y, STD)  # s = 0.2
    errors = []
    for kind in (NoisyConjugatePiGDM, ExpandedConjugatePiGDM):
        sigma = float(few_steps(5).sigma[0])
        exact = _flow(NoisyConjugatePiGDM, 2.0, _start(kind, sigma), sigma)
        solvers = [kind(grid=few_steps(n), guidance_scale=2.0) for n in (200, 400)]
        ends = [solve(KEY, problem, law.prior(), solver).x for solver in solvers]
        errors.append([abs(small @ (end - exact)) for end in ends])
    (coarse, fine), (released_coarse, released_fine) = errors
    assert fine < 0.55 * coarse < 0.01
    # Measured: 0.63 and 0.67.
    assert released_fine > released_coarse > 0.5


def _pinv(operator, y):
    return operator.pinv(y)


@pytest.mark.usefixtures("x64")
def test_the_nonlinear_form_is_the_noise_free_one_for_linear_operators():
    a, y = _setting()
    solvers = [
        ConjugatePiGDM(grid=grid(), guidance_scale=3.0, tilt=-0.2),
        NonlinearConjugatePiGDM(
            grid=grid(), guidance_scale=3.0, tilt=-0.2, h_pinv=_pinv
        ),
    ]
    problem = oracle.problem(a, y, STD)
    pair = [solve(KEY, problem, mixture(), solver).x for solver in solvers]
    np.testing.assert_allclose(*pair, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("num_steps", [5, 10, 20])
def test_published_settings(num_steps):
    levels = few_steps(num_steps)
    times = np.linspace(0.4, 0.001, num_steps + 1)[:-1]
    np.testing.assert_allclose(levels.time[:-1], times, rtol=1e-6)
    np.testing.assert_allclose(levels.sigma[0], 2.02832, rtol=1e-5)
    assert (levels.num_steps, levels.sigma[-1]) == (num_steps, 0.0)
    exact = ConjugatePiGDM.super_resolution_x4(num_steps=num_steps)
    noisy = NoisyConjugatePiGDM.super_resolution_x4(num_steps=num_steps)
    assert (exact.guidance_scale, exact.tilt) == (15.0, 0.0)
    assert (noisy.guidance_scale, noisy.tilt) == (2.0, -0.15)
    released = ExpandedConjugatePiGDM.released_code(num_steps=num_steps)
    assert (released.guidance_scale, released.tilt) == (2.0, -0.15)
    np.testing.assert_array_equal(released.grid.sigma, levels.sigma)
