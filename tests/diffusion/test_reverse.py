"""Reverse steps: textbook formulas in VP coordinates, order of accuracy, invariants."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.core import DiffusionPrior, LearnedVariancePrior
from diffctl.diffusion import (
    DDIM,
    DDPM,
    VP,
    Ancestral,
    AncestralLearned,
    Estimate,
    Euler,
    FlowEuler,
    Heun,
    Renoise,
    clip,
    clip_straight_through,
    ddpm,
    karras,
    uniform,
    vp_uniform,
)
from diffctl.priors import GaussianPrior
from diffctl.pytree import pytree_dataclass, static
from tests.diffusion.textbook import FRACTION, STEPS, gaussian, textbook
from tests.tolerances import EXACT64


@pytree_dataclass
class Fixed(LearnedVariancePrior):
    """A denoiser that always answers x0_hat + sigma^2 * guidance."""

    x0_hat: jax.Array
    guidance: jax.Array
    shape: tuple[int, ...] = static(default=(4,))

    def denoise(self, x, sigma):
        return self.x0_hat + sigma**2 * self.guidance

    def denoise_with_variance(self, x, sigma):
        return self.denoise(x, sigma), jnp.full_like(x, FRACTION)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", STEPS)
def test_textbook_step_and_guidance_coefficient(name):
    step, grid = STEPS[name], vp_uniform(6)
    x, x0_hat, guidance, z = jax.random.normal(jax.random.key(2), (4, 4))
    prior = Fixed(x0_hat=x0_hat, guidance=jnp.zeros(4))
    guided = Fixed(x0_hat=x0_hat, guidance=guidance)

    @jax.jit
    @jax.vmap
    def run(now, after):
        outputs = [step(p, x / now.scale, now, after, z) for p in (prior, guided)]
        return *outputs, step.guidance_coefficient(now, after)

    plain, pulled, gamma = run(*grid.pairs())
    gamma_guidance = gamma[:, None] * guidance[None]
    # A difference of states of size 2e4: measured 4e-12.
    chex.assert_trees_all_close(pulled - plain, gamma_guidance, rtol=1e-10, atol=1e-11)
    scale, time = np.asarray(grid.scale), np.asarray(grid.time)
    for i in range(grid.num_steps - 1):  # the last step has its own test
        ab_t, ab_s = scale[i] ** 2, scale[i + 1] ** 2
        levels = (ab_t, ab_s, 0.1 + 19.9 * time[i], time[i] - time[i + 1])
        expected, expected_gamma = textbook(name, x, x0_hat, z, levels)
        chex.assert_trees_all_close(plain[i] * scale[i + 1], expected, **EXACT64)
        found_gamma = gamma[i] * scale[i] * scale[i + 1]
        np.testing.assert_allclose(found_gamma, expected_gamma, **EXACT64)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", [*STEPS, "heun"])
def test_step_to_the_clean_level_is_the_denoiser_with_finite_gradients(name):
    step, grid = {**STEPS, "heun": Heun()}[name], vp_uniform(3)
    x, z = jax.random.normal(jax.random.key(3), (2, 3))
    law = gaussian()

    @pytree_dataclass
    class Learned(LearnedVariancePrior):
        law: GaussianPrior
        shape: tuple[int, ...] = static(default=(3,))

        def denoise(self, x, sigma):
            return self.law.denoise(x, sigma)

        def denoise_with_variance(self, x, sigma):
            return self.denoise(x, sigma), jnp.full_like(x, FRACTION)

    def last(step, x, grid):
        now, after = jax.tree.map(lambda leaf: leaf[-1], grid.pairs())
        found = step(Learned(law=law), x, now, after, z)
        return jnp.sum(found**2), (found, law.denoise(x, now.sigma))

    # With respect to the step's own leaves (eta, schedule), the state and the levels.
    derivatives = jax.jit(jax.grad(last, argnums=(0, 1, 2), has_aux=True))
    gradients, (found, expected) = derivatives(step, x, grid)
    chex.assert_trees_all_close(found, expected, **EXACT64)
    chex.assert_tree_all_finite(gradients)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_joins_euler_and_ancestral(eta):
    now, after = ddpm(7).pairs()
    x, x0_hat, z = jax.random.normal(jax.random.key(4), (3, 4))
    estimate = Estimate(x0_hat=x0_hat)

    def run(step):
        return jax.vmap(lambda n, a: step.advance(x, estimate, n, a, z))(now, after)

    ddim = run(DDIM(eta=eta))
    if eta == 0.0:
        chex.assert_trees_all_close(
            ddim, run(Euler()), run(Renoise(eta=0.0)), **EXACT64
        )
    elif eta == 1.0:
        chex.assert_trees_all_close(ddim, run(Ancestral()), **EXACT64)
    chex.assert_tree_all_finite(ddim)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("step", "make_grid", "order"),
    [
        (Euler(), lambda n: karras(n, 0.3, 8.0), 1),
        (Heun(), lambda n: karras(n, 0.3, 8.0), 2),
        (
            FlowEuler(schedule=VP()),
            lambda n: vp_uniform(n, time_max=0.6, time_min=0.1),
            1,
        ),
        (
            FlowEuler(schedule=DDPM.linear()),
            lambda n: uniform(n, DDPM.linear(), 600.0, 100.0),
            1,
        ),
    ],
    ids=["euler", "heun", "flow_vp", "flow_ddpm"],
)
def test_ode_steps_converge_to_the_exact_flow(step, make_grid, order):
    law = gaussian()
    start = law.mean + 3 * jax.random.normal(jax.random.key(6), (3,))

    @jax.jit
    def error(grid):
        now, after = jax.tree.map(lambda leaf: leaf[:-1], grid.pairs())
        move = lambda x, levels: (step(law, x, *levels), None)  # noqa: E731
        end, _ = jax.lax.scan(move, start, (now, after))
        exact = law.flow(start, grid.sigma[0], grid.sigma[-2])
        return jnp.max(jnp.abs(end - exact))

    coarse, fine = error(make_grid(129)), error(make_grid(257))
    rate = float(jnp.log2(coarse / fine))
    # Measured rates 0.998, 2.004, 1.014, 0.934 (the rate of a discrete schedule jumps
    # at the indices, between which its grid falls); errors at most 1e-3 and 7e-6.
    assert abs(rate - order) < 0.1, rate
    assert fine < {1: 2e-3, 2: 2e-5}[order], fine


def test_bounds():
    x0_hat = jnp.array([-3.0, 0.2, 1.5])
    clipped = jnp.array([-1.0, 0.2, 1.0])
    chex.assert_trees_all_equal(clip(x0_hat), clip_straight_through(x0_hat), clipped)
    slope = jax.grad(lambda v: jnp.sum(clip(v)))(x0_hat)
    chex.assert_trees_all_equal(slope, jnp.array([0.0, 1.0, 0.0]))
    slope = jax.grad(lambda v: jnp.sum(clip_straight_through(v)))(x0_hat)
    chex.assert_trees_all_equal(slope, jnp.ones(3))
    prior = Fixed(x0_hat=x0_hat, guidance=jnp.zeros(3), shape=(3,))
    now, after = jax.tree.map(lambda leaf: leaf[-1], karras(3).pairs())
    for step in (Euler(bound=clip), Heun(bound=clip), AncestralLearned(bound=clip)):
        out = step(prior, jnp.ones(3), now, after, jnp.ones(3))
        chex.assert_trees_all_close(out, clipped, rtol=1e-6)


def test_declared_calls_are_made():
    class Counting(DiffusionPrior):
        shape = (2,)
        calls = 0

        def denoise(self, x, sigma):
            self.calls += 1
            return 0.5 * x

    now, after = jax.tree.map(lambda leaf: leaf[0], karras(3).pairs())
    for step in (Euler(), Ancestral(), Heun()):
        prior = Counting()
        step(prior, jnp.ones(2), now, after, jnp.ones(2) if step.stochastic else None)
        assert prior.calls == step.calls


def test_learned_variance_needs_a_prior_that_predicts_it():
    now, after = jax.tree.map(lambda leaf: leaf[0], karras(3).pairs())
    law = GaussianPrior.from_moments(np.zeros(2), np.eye(2))
    with pytest.raises(TypeError, match="GaussianPrior predicts no variance"):
        AncestralLearned()(law, jnp.ones(2), now, after, jnp.ones(2))
