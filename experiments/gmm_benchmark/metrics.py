"""How far samples are from the exact posterior, in three respects and by one more norm.

Samples x_j, j = 1 ... n, of a mixture sum_k w_k N(mu_k, S):

1. sliced W1      mean over directions u of  1/n sum_j |<u, x>_(j) - <u, x'>_(j)|, with
                  x' exact samples and (j) the order of the projections
2. mode weights   1/2 sum_k |share of samples whose nearest mode is k - w_k|, nearest in
                  the metric of S: 0 exact, 1 all samples in modes of weight 0
3. within modes   r_j = S^{-1/2} (x_j - mu_k), k the nearest mode, has the second moment
                  C = I if the samples are exact; in a subspace of p dimensions,
                  e^2 = |C - I|_F^2 / p, estimated without bias by
                  (mean over i != j of <r_i, r_j>^2 - 2 mean_j |r_j|^2 + p) / p

4. largest W2     the largest over 100 of the directions u of
                  (1/n sum_j (<u, x>_(j) - <u, x'>_(j))^2)^{1/2}, which others report

The moments of (3) are about the exact means, so that a mode in the wrong place counts
as well. The estimate needs no matrix and works for n < p, where |C - I|_F^2 / p of the
sample's own moments would be about p / n however good the samples are.

Computed on the host: NumPy sorts tens of times faster than XLA does on a CPU.
"""

from dataclasses import dataclass

import numpy as np

from experiments.gmm_benchmark.problems import ExactPosterior

# As many directions as are published: the largest of more would be larger.
_SEARCHED = 100
# Directions at a time: projections of n = 1000 samples then take 2 MB.
_CHUNK = 500


@dataclass(frozen=True)
class Slices:
    """Exact samples as they look along random directions: (1) and (4) from them.

    Attributes:
        directions: unit vectors, (L, d).
        ordered: the projections of the exact samples, each row sorted, (L, n).
    """

    directions: np.ndarray
    ordered: np.ndarray

    @classmethod
    def of(
        cls, rng: np.random.Generator, exact: np.ndarray, num_directions: int
    ) -> "Slices":
        """Look at samples (n, d) along directions uniform on the sphere.

        Memory: (L, d + n) numbers.
        """
        drawn = rng.normal(size=(num_directions, exact.shape[1]))
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        directions = drawn.astype(exact.dtype)
        parts = [_projections(part, exact) for part in _chunks(directions)]
        return cls(directions=directions, ordered=np.concatenate(parts))

    def distance(self, x: np.ndarray) -> float:
        """Return (1) for samples (n, d).

        Raises:
            ValueError: there are not as many as there are exact samples.
        """
        self._check(x)
        pairs = zip(_chunks(self.directions), _chunks(self.ordered), strict=True)
        total = sum(
            np.sum(np.abs(_projections(part, x) - ordered), dtype=np.float64)
            for part, ordered in pairs
        )
        return float(total) / self.ordered.size

    def largest(self, x: np.ndarray) -> float:
        """Return (4) for samples (n, d), over all directions if there are fewer.

        Raises:
            ValueError: there are not as many as there are exact samples.
        """
        self._check(x)
        seen = _projections(self.directions[:_SEARCHED], x)
        gaps = np.square(seen - self.ordered[:_SEARCHED], dtype=np.float64)
        return float(np.sqrt(gaps.mean(axis=1).max()))

    def _check(self, x: np.ndarray) -> None:
        if len(x) != self.ordered.shape[1]:
            raise ValueError(
                f"there are {len(x)} samples; expected {self.ordered.shape[1]}, as "
                "many as exact ones."
            )


@dataclass(frozen=True)
class Modes:
    """Samples by modes.

    Attributes:
        weight_error: (2).
        measured_error: e of (3) along the d_y measured directions.
        free_error: e of (3) in the d - d_y directions orthogonal to them; 0 if none.
    """

    weight_error: float
    measured_error: float
    free_error: float

    @classmethod
    def of(cls, x: np.ndarray, posterior: ExactPosterior) -> "Modes":
        """Compare samples (n, d), n > 1, with the posterior."""
        white, centres = (
            _whitened(np.asarray(z, np.float64), posterior)
            for z in (x, posterior.means)
        )
        # |x|^2 is the same for all modes.
        distances = np.sum(centres**2, axis=1) / 2 - white @ centres.T
        nearest = np.argmin(distances, axis=1)
        shares = np.bincount(nearest, minlength=len(centres)) / len(x)
        residuals = white - centres[nearest]
        along = residuals @ np.asarray(posterior.basis, np.float64).T
        measured, total = along @ along.T, residuals @ residuals.T
        size, num_measured = residuals.shape[1], along.shape[1]
        return cls(
            weight_error=float(np.abs(shares - np.asarray(posterior.weights)).sum())
            / 2,
            measured_error=_moment_error(measured, num_measured),
            free_error=_moment_error(total - measured, size - num_measured),
        )


def _projections(directions: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the sorted projections, (directions, n)."""
    projected = directions @ x.T
    projected.sort(axis=1)
    return projected


def _chunks(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[i : i + _CHUNK] for i in range(0, len(rows), _CHUNK)]


def _whitened(x: np.ndarray, posterior: ExactPosterior) -> np.ndarray:
    """Return S^{-1/2} x, (n, d), in whose distances every mode is round."""
    basis = np.asarray(posterior.basis, np.float64)
    outside = 1 / float(posterior.std)
    along = 1 / np.asarray(posterior.deviations, np.float64)
    return outside * x + (x @ basis.T * (along - outside)) @ basis


def _moment_error(products: np.ndarray, size: int) -> float:
    """Return e of (3) from the inner products of residuals, (n, n), in p = `size`."""
    if not size:
        return 0.0
    count, squares = len(products), np.diagonal(products)
    pairs = np.sum(products**2) - np.sum(squares**2)
    squared = pairs / (count * (count - 1)) - 2 * np.mean(squares) + size
    return float(np.sqrt(max(squared, 0.0) / size))
