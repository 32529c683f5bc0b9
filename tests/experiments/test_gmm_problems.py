"""The problems of the mixture benchmark and their answers; the distances to these."""

import math
from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.operators import Identity
from diffctl.priors import GaussianMixturePrior
from experiments.gmm_benchmark.metrics import Modes, Slices
from experiments.gmm_benchmark.problems import (
    ExactPosterior,
    Family,
    cluster_means,
    spread,
)
from tests.tolerances import EXACT32, EXACT64, stat

FAMILY = Family(seed=3)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("measured", [1, 4, 8])
def test_the_posterior_is_that_of_the_general_mixture(measured):
    posed = FAMILY.pose(8, measured, 0)
    prior, found = posed.prior, posed.posterior
    general = GaussianMixturePrior.from_moments(
        np.exp(prior.log_weights), prior.means, np.broadcast_to(np.eye(8), (25, 8, 8))
    )
    operator = posed.problem.operator
    matrix = operator.left @ jnp.diag(operator.values) @ operator.right

    @jax.jit
    def condition(y, noise_std):
        law = general.posterior(y, matrix, noise_std)
        covariances = jax.vmap(lambda part: part.covariance())(law.components)
        return jnp.exp(law.log_weights), law.components.mean, covariances

    weights, means, covariances = condition(posed.problem.y, posed.problem.noise.std)
    chex.assert_trees_all_close(found.weights, weights, **EXACT64)
    chex.assert_trees_all_close(found.means, means, **EXACT64)
    narrowed = jnp.diag(found.deviations**2 - found.std**2)
    covariance = found.std**2 * jnp.eye(8) + found.basis.T @ narrowed @ found.basis
    chex.assert_trees_all_close(
        covariances, jnp.tile(covariance, (25, 1, 1)), **EXACT64
    )


def test_the_means_are_those_of_the_protocol():
    means = cluster_means(6)
    np.testing.assert_array_equal(means[0], [16, 16] * 3)
    np.testing.assert_array_equal(means[1], [16, 8] * 3)
    np.testing.assert_array_equal(means[5], [8, 16] * 3)
    np.testing.assert_array_equal(means[24], [-16, -16] * 3)
    along = means @ np.tile([1, 0], 3) / np.sqrt(3)
    np.testing.assert_allclose(np.std(along), spread(6))


def test_a_problem_depends_on_its_name_alone():
    first, again = FAMILY.pose(8, 2, 1), Family(seed=3).pose(8, 2, 1)
    chex.assert_trees_all_equal(first.problem, again.problem)
    for other in (
        Family(seed=4).pose(8, 2, 1),
        FAMILY.pose(8, 2, 2),
        FAMILY.pose(8, 1, 1),
    ):
        assert not np.array_equal(first.problem.y[:1], other.problem.y[:1])
    fixed = replace(FAMILY, noise_std=0.3).pose(8, 2, 1)
    assert float(fixed.problem.noise.std) == pytest.approx(0.3)
    np.testing.assert_array_equal(first.truth, fixed.truth)
    equal = replace(FAMILY, uniform_weights=True).pose(8, 2, 1).prior
    np.testing.assert_allclose(np.exp(equal.log_weights), 1 / 25, rtol=1e-6)


def test_measurements_are_drawn_from_the_model():
    gaps, values, shares = [], [], []
    for number in range(200):
        posed = FAMILY.pose(8, 2, number)
        operator, noise = posed.problem.operator, posed.problem.noise
        clean = operator(jnp.asarray(posed.truth, jnp.float32))
        gaps.extend((np.asarray(posed.problem.y) - clean) / noise.std)
        values.extend(np.asarray(operator.values))
        shares.append(float(noise.std) / float(operator.values[0]))
    # n = 400 and 200, k = 4; a uniform number has the standard deviation 0.29.
    assert abs(np.mean(gaps)) < stat(400)
    assert abs(np.mean(np.square(gaps)) - 1) < stat(400) * math.sqrt(2)
    assert abs(np.mean(values) - 0.5) < stat(400) * 0.29
    assert abs(np.mean(shares) - 0.5) < stat(200) * 0.29
    assert np.all(np.diff(np.reshape(values, (-1, 2))) <= 0)


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="even d"):
        FAMILY.pose(7, 1, 0)
    with pytest.raises(ValueError, match="from 1 to d"):
        FAMILY.pose(4, 5, 0)
    with pytest.raises(ValueError, match="more than 0"):
        replace(FAMILY, noise_std=0.0).pose(4, 1, 0)
    posed = FAMILY.pose(4, 1, 0)
    with pytest.raises(TypeError, match="got Identity"):
        other = replace(posed.problem, operator=Identity(shape=(4,)))
        ExactPosterior.of(posed.prior, other)


def test_nothing_of_a_large_problem_is_a_matrix_of_its_size():
    posed = FAMILY.pose(800, 4, 0)
    leaves = jax.tree.leaves((posed.problem, posed.prior, posed.posterior))
    assert max(leaf.size for leaf in leaves) == 25 * 800


def exact(size: int, measured: int, count: int, key: int = 0):
    posterior = FAMILY.pose(size, measured, 0).posterior
    return posterior, np.asarray(posterior.sample(jax.random.key(key), count))


def test_exact_samples_have_no_error():
    count, (posterior, x) = 2000, exact(8, 2, 2000)
    other = np.asarray(posterior.sample(jax.random.key(1), count))
    modes = Modes.of(x, posterior)
    # k = 4 for the share of each of the few modes of a notable weight.
    weights = np.asarray(posterior.weights)
    deviations = np.sqrt(weights * (1 - weights))
    assert modes.weight_error < stat(count) * deviations.sum() / 2
    # Squared, the estimate scatters by sqrt(2) sqrt(p + 1) / n about 0.
    assert modes.measured_error < 0.1
    assert modes.free_error < 0.1
    assert Slices.of(np.random.default_rng(0), x, 200).distance(other) < 0.5


def test_a_shift_is_seen_by_every_direction():
    _, x = exact(8, 1, 300)
    slices = Slices.of(np.random.default_rng(0), x, 4000)
    shift = np.zeros(8, x.dtype)
    shift[3] = 5.0
    found = slices.distance(np.random.default_rng(1).permutation(x + shift))
    np.testing.assert_allclose(
        found, np.mean(np.abs(slices.directions @ shift)), **EXACT32
    )
    # E |u_3| on the sphere in 8 dimensions; n = 4000, k = 4, E u_3^2 = 1 / 8.
    mean = math.gamma(4) / (math.sqrt(math.pi) * math.gamma(4.5))
    assert abs(found / 5 - mean) < stat(4000) * math.sqrt(1 / 8 - mean**2)
    most = np.abs(slices.directions[:100] @ shift).max()
    np.testing.assert_allclose(slices.largest(x + shift), most, **EXACT32)
    assert slices.distance(x[::-1]) < 1e-6  # products are summed in another order
    with pytest.raises(ValueError, match="299 samples; expected 300"):
        slices.distance(x[1:])


def test_chunks_of_directions_do_not_matter():
    _, x = exact(8, 1, 50)
    slices = Slices.of(np.random.default_rng(0), x, 1201)
    assert slices.ordered.shape == (1201, 50)
    projected = np.sort(slices.directions @ (2 * x).T, axis=1)
    expected = np.mean(np.abs(projected - np.sort(slices.directions @ x.T, axis=1)))
    np.testing.assert_allclose(slices.distance(2 * x), expected, **EXACT32)


def test_errors_of_known_size():
    count, posterior = 4000, FAMILY.pose(8, 2, 0).posterior
    index = int(np.argmax(posterior.weights))
    centre, basis = np.asarray(posterior.means[index]), np.asarray(posterior.basis)
    noise = np.random.default_rng(2).normal(size=(count, 8))
    along = noise @ basis.T
    free = noise - along @ basis

    def one_mode(scale_along: float, scale_free: float, shift: float) -> Modes:
        moved = scale_along * along + np.array([shift, 0.0])
        coloured = (moved * np.asarray(posterior.deviations)) @ basis
        return Modes.of(centre + coloured + scale_free * free, posterior)

    share = 1 - float(posterior.weights[index])
    # Means of 4000 squares err by 0.02, the moments below by a few times that.
    close = {"rel": 0.05, "abs": 0.05}
    good = one_mode(1, 1, 0)
    assert good.weight_error == pytest.approx(share, abs=1e-5)
    assert good.measured_error == pytest.approx(0, **close)
    assert good.free_error == pytest.approx(0, **close)
    point = one_mode(0, 0, 0)
    assert point.measured_error == pytest.approx(1)
    assert point.free_error == pytest.approx(1)
    wide = one_mode(1, 1.5, 1)
    assert wide.free_error == pytest.approx(1.5**2 - 1, **close)
    assert wide.measured_error == pytest.approx(1 / math.sqrt(2), **close)


def test_fewer_samples_than_dimensions():
    """The moments' own error would be sqrt(p / n) = 2; copies do show."""
    posterior, x = exact(202, 2, 50)
    assert Modes.of(x, posterior).free_error < 0.4
    copied = Modes.of(np.repeat(x[:25], 2, axis=0), posterior).free_error
    assert copied == pytest.approx(math.sqrt(200 / 49), rel=0.2)
