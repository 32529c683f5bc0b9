"""Consistency models: the exact one of a Gaussian, networks, and generation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.diffusion import karras_levels, sample_consistency
from diffctl.nets import Architecture
from diffctl.priors import (
    ConsistencyNetworkPrior,
    GaussianConsistencyPrior,
    GaussianPrior,
    NetworkPrior,
)
from diffctl.priors.preconditioning import (
    ConsistencyPreconditioning,
    EDMPreconditioning,
)
from diffctl.pytree import pytree_dataclass
from tests.tolerances import EXACT32, EXACT64

KEY = jax.random.key(4)
SIZE = 3


@pytree_dataclass
class Bent:
    """A network of one parameter, not linear."""

    gain: jax.Array

    def __call__(self, x, noise):
        return jnp.tanh(self.gain * x + jnp.sin(noise))


def _network(preconditioning):
    return NetworkPrior(
        net=Bent(gain=jnp.asarray(1.3)),
        preconditioning=preconditioning,
        architecture=Architecture.of("unet", channels=1),
        shape=(SIZE,),
    )


def _gaussian():
    root = np.random.default_rng(1).normal(size=(SIZE, SIZE))
    return GaussianPrior.from_moments(np.linspace(-1, 1, SIZE), root @ root.T / 4)


@pytest.mark.usefixtures("x64")
def test_the_function_of_a_gaussian_is_constant_on_trajectories():
    prior, gaussian = GaussianConsistencyPrior(gaussian=_gaussian()), _gaussian()
    x, sigma = jnp.linspace(-30.0, 40.0, SIZE), jnp.asarray(40.0)
    end = prior.jump(x, sigma)
    for level in (10.0, 0.5, 0.002):
        on_the_way = gaussian.flow(x, sigma, jnp.asarray(level))
        np.testing.assert_allclose(
            prior.jump(on_the_way, jnp.asarray(level)), end, **EXACT64
        )
    np.testing.assert_allclose(prior.jump(x, jnp.asarray(0.002)), x, **EXACT64)
    # Nearly all of the noise is gone: the law of the end is N(m, C + sigma_min^2 I).
    slope = jax.jit(jax.jacobian(prior.jump))(x, sigma)
    noisy = gaussian.covariance() + sigma**2 * np.eye(SIZE)
    expected = gaussian.covariance() + 0.002**2 * np.eye(SIZE)
    np.testing.assert_allclose(slope @ noisy @ slope.T, expected, **EXACT64)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("indices", [(0,), (0, 22), (0, 17, 30)])
def test_sampling_in_several_steps(indices):
    prior, grid = GaussianConsistencyPrior(gaussian=_gaussian()), karras_levels(indices)
    ladder = 80 ** (1 / 7) + np.asarray(indices) / 39 * (
        0.002 ** (1 / 7) - 80 ** (1 / 7)
    )
    np.testing.assert_allclose(grid.sigma[:-1], ladder**7, rtol=1e-12)
    found = sample_consistency(KEY, prior, grid.sigma[:-1])
    noise = np.asarray(jax.random.normal(KEY, (len(indices), SIZE)))
    x = ladder[0] ** 7 * noise[0]
    for i, sigma in enumerate(ladder**7):
        if i > 0:
            x = x0 + np.sqrt(sigma**2 - 0.002**2) * noise[i]  # noqa: F821
        x0 = np.asarray(prior.jump(jnp.asarray(x), jnp.asarray(sigma)))
    np.testing.assert_allclose(found, x0, **EXACT64)


@pytest.mark.parametrize("indices", [(), (0, 40), (5, 5), (9, 2), (-1, 3)])
def test_levels_outside_the_grid_are_refused(indices):
    with pytest.raises(ValueError, match=r"increase strictly within 0\.\.39"):
        karras_levels(indices)


def test_a_network_starts_at_the_boundary():
    prior = ConsistencyNetworkPrior.create(_network(ConsistencyPreconditioning()))
    x = jnp.linspace(-1.0, 2.0, SIZE)
    np.testing.assert_allclose(prior.jump(x, jnp.asarray(0.002)), x, **EXACT32)
    assert jnp.max(jnp.abs(prior.jump(x, jnp.asarray(1.0)) - x)) > 0.1
    assert (prior.shape, prior.sigma_min, prior.sigma_max) == ((SIZE,), 0.002, 80.0)


def test_other_networks_are_refused():
    with pytest.raises(ValueError, match="expected ConsistencyPreconditioning"):
        ConsistencyNetworkPrior.create(_network(EDMPreconditioning()))
