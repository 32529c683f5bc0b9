"""The problems: 25 round clusters, a random matrix, and the exact posterior.

With A = U diag(s) V^T of d_y rows, clusters N(m_k, t^2 I) and noise sigma_y:

1. means       m_(i,j) = (-8 i, -8 j, -8 i, -8 j, ...),  i, j = -2, ..., 2
2. posterior   sum_k w_k N(mu_k, S),  S = (I / t^2 + A^T A / sigma_y^2)^{-1}
                                        = t^2 I + V diag(c^2 - t^2) V^T,
               c_i^2 = t^2 sigma_y^2 / v_i,  v_i = t^2 s_i^2 + sigma_y^2
3. mu_k        m_k + V diag(t^2 s / v) (U^T y - diag(s) V^T m_k)
4. w_k         proportional to pi_k prod_i N((U^T y)_i; s_i (V^T m_k)_i, v_i)

Everything is drawn and computed in float64 on the host and cast at the end.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.operators import DenseMatrix, GaussianNoise, Problem
from diffctl.priors import IsotropicMixturePrior
from diffctl.pytree import pytree_dataclass

SPACING = 8.0
_STEPS = range(-2, 3)


@pytree_dataclass
class ExactPosterior:
    """The posterior (2): a mixture whose components share one covariance S.

    S has the standard deviation `deviations[i]` along row i of `basis`, and `std` in
    all directions orthogonal to them.
    """

    log_weights: jax.Array  # (K,), normalised
    means: jax.Array  # (K, d)
    basis: jax.Array  # V^T (d_y, d)
    deviations: jax.Array  # c (d_y,)
    std: jax.Array  # t ()

    @classmethod
    def of(cls, prior: IsotropicMixturePrior, problem: Problem) -> "ExactPosterior":
        """Condition a mixture on the measurement of a `DenseMatrix` in white noise."""
        operator, noise = problem.operator, problem.noise
        if not isinstance(operator, DenseMatrix) or not isinstance(
            noise, GaussianNoise
        ):
            raise TypeError(
                "The posterior is known for a DenseMatrix and GaussianNoise; got "
                f"{type(operator).__name__} and {type(noise).__name__}."
            )
        host = lambda leaf: np.asarray(leaf, dtype=np.float64)  # noqa: E731
        s, basis = host(operator.values), host(operator.right)
        means, std, noise_std = host(prior.means), host(prior.std), host(noise.std)
        variances = (std * s) ** 2 + noise_std**2
        gaps = host(operator.left).T @ host(problem.y) - s * (means @ basis.T)
        log_weights = host(prior.log_weights) - np.sum(gaps**2 / variances, 1) / 2
        log_weights -= np.logaddexp.reduce(log_weights)
        return cls(
            log_weights=jnp.asarray(log_weights),
            means=jnp.asarray(means + (std**2 * s / variances * gaps) @ basis),
            basis=jnp.asarray(basis),
            deviations=jnp.asarray(std * noise_std / np.sqrt(variances)),
            std=jnp.asarray(std),
        )

    @property
    def weights(self) -> jax.Array:
        """w, (K,)."""
        return jnp.exp(self.log_weights)

    def sample(self, key: jax.Array, num_samples: int) -> jax.Array:
        """Draw independent samples, (n, d), at the cost of O(d d_y) for each."""
        key_component, key_noise = jax.random.split(key)
        shape = num_samples, self.means.shape[1]
        noise = jax.random.normal(key_noise, shape, self.means.dtype)
        index = jax.random.categorical(
            key_component, self.log_weights, shape=(num_samples,)
        )
        # t z + V diag(c - t) V^T z has the covariance S.
        measured = jnp.matmul(noise, self.basis.T, precision="highest")
        change = (self.deviations - self.std)[None] * measured
        narrowed = jnp.matmul(change, self.basis, precision="highest")
        return self.means[index] + self.std * noise + narrowed


@dataclass(frozen=True)
class Posed:
    """A problem with its answer.

    Attributes:
        problem: measurement (d_y,), matrix and noise.
        prior: of the signal.
        truth: the signal that was measured, (d,).
        posterior: exact.
    """

    problem: Problem
    prior: IsotropicMixturePrior
    truth: np.ndarray
    posterior: ExactPosterior


def check_cell(size: int, measured: int) -> None:
    """Raise `ValueError` unless `size` is even and `measured` between 1 and it."""
    if size % 2 or not 1 <= measured <= size:
        raise ValueError(
            f"d is {size} and d_y {measured}; expected an even d, and d_y from 1 to d."
        )


@dataclass(frozen=True)
class Family:
    """How problems are drawn. A problem depends on these fields, its size and number.

    Attributes:
        uniform_weights: weights 1 / 25; otherwise squares of standard normals.
        noise_std: sigma_y; None draws it uniformly between 0 and the largest s_i.
        seed: of everything that is drawn.
    """

    uniform_weights: bool = False
    noise_std: float | None = None
    seed: int = 0

    def pose(self, size: int, measured: int, number: int) -> Posed:
        """Return problem `number` with d = `size` and d_y = `measured`.

        Raises:
            ValueError: `size` is not even, `measured` not between 1 and it, or
                `noise_std` not positive.
        """
        check_cell(size, measured)
        if self.noise_std is not None and not self.noise_std > 0:
            raise ValueError(f"noise_std is {self.noise_std}; expected more than 0.")
        rng = np.random.default_rng([self.seed, size, measured, number])
        means, weights = cluster_means(size), rng.normal(size=25) ** 2
        if self.uniform_weights:
            weights = np.ones(25)
        left, values, right = _random_factors(rng, size, measured)
        # Drawn in any case, so that the two kinds of noise share all other draws.
        drawn = rng.uniform() * values[0]
        noise_std = drawn if self.noise_std is None else self.noise_std
        index = rng.choice(25, p=weights / weights.sum())
        truth = means[index] + rng.normal(size=size)
        y = left @ (values * (right @ truth)) + noise_std * rng.normal(size=measured)
        operator = DenseMatrix(
            left=jnp.asarray(left),
            values=jnp.asarray(values),
            right=jnp.asarray(right),
            shape=(size,),
        )
        noise = GaussianNoise(std=jnp.asarray(noise_std))
        problem = Problem(y=jnp.asarray(y), operator=operator, noise=noise)
        prior = IsotropicMixturePrior.from_moments(weights, means, 1.0)
        posterior = ExactPosterior.of(prior, problem)
        return Posed(problem=problem, prior=prior, truth=truth, posterior=posterior)


def cluster_means(size: int) -> np.ndarray:
    """Return the means (1), (25, d), i varying slowest."""
    pairs = [(-SPACING * i, -SPACING * j) for i in _STEPS for j in _STEPS]
    return np.tile(np.asarray(pairs), (1, size // 2))


def spread(size: int) -> float:
    """Return the standard deviation of uniformly weighted means along their plane.

    Means lie in the plane of (1, 0, 1, 0, ...) and (0, 1, 0, 1, ...), where they form a
    square lattice whose spacing grows with the root of d.
    """
    return SPACING * float(np.sqrt(np.var(_STEPS) * size / 2))


def _random_factors(
    rng: np.random.Generator, size: int, measured: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the factors of a normal matrix with singular values drawn from U(0, 1)."""
    matrix = rng.normal(size=(measured, size))
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    values = np.sort(rng.uniform(size=measured))[::-1]
    return left, np.ascontiguousarray(values), right
