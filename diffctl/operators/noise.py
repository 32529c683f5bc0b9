"""Noise models: the law of y given the clean measurement z = A(x).

    Gaussian      -log p = |y - z|^2 / (2 std^2)
    Poisson       -log p = rate - counts - counts log(rate / counts),
                  rate = peak (z + 1) / 2 + background
    Categorical   -log p = -log softmax(z)[y]

each up to a constant that does not depend on z.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.numerics.concrete import any_concrete
from diffctl.numerics.poisson import half_deviance, poisson_counts
from diffctl.numerics.safe import safe_sqrt
from diffctl.operators.base import NoiseModel, WhiteNoise
from diffctl.operators.checks import require
from diffctl.pytree import pytree_dataclass

Scalar = float | jax.Array


@pytree_dataclass
class GaussianNoise(WhiteNoise):
    """y = z + std * n with independent standard normal entries n.

    `std` is on the scale of the measurement: for images in [-1, 1], twice the value
    that is quoted for [0, 1] (`from_unit_range`). Real and imaginary parts of complex
    entries are independent, each with standard deviation `std`. The measurement may be
    a pytree, all of whose leaves have the same `std`.
    """

    std: Scalar  # ()

    @classmethod
    def from_unit_range(cls, std: float) -> "GaussianNoise":
        """Convert a standard deviation quoted for images in [0, 1] (DDRM, DiffPIR)."""
        require(
            not std <= 0,
            f"noise std is {std}; expected a positive number.",
        )
        return cls(std=2.0 * std)

    def neg_log_likelihood(self, y: Any, clean: Any) -> jax.Array:
        def energy(y: jax.Array, clean: jax.Array) -> jax.Array:
            residual = (y - clean) / self.std
            return 0.5 * jnp.sum(residual.real**2 + residual.imag**2)

        return jax.tree.reduce(jnp.add, jax.tree.map(energy, y, clean))

    def hessian_root(self, y: Any, clean: Any, w: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf / self.std, w)

    def sample(self, key: jax.Array, clean: Any) -> Any:
        leaves, structure = jax.tree.flatten(clean)
        keys = jax.random.split(key, len(leaves))
        noise = [
            _standard_normal(k, leaf) for k, leaf in zip(keys, leaves, strict=True)
        ]
        noisy = [
            leaf + jnp.asarray(self.std, leaf.real.dtype) * n
            for leaf, n in zip(leaves, noise, strict=True)
        ]
        return jax.tree.unflatten(structure, noisy)

    def check(self, y: Any, clean: Any) -> None:
        reason = "the likelihood of noise-free data (which DDNM is made for) is"
        _require_positive("noise std", self.std, reason)
        dtype = jnp.result_type(jnp.result_type(self.std), jnp.float32)
        # Solvers divide by the square, and by ratios of it to singular values.
        least = float(jnp.finfo(dtype).tiny) ** 0.4
        require(
            not any_concrete(lambda std: std < least, self.std),
            f"noise std is {self.std}; expected at least {least:.1g}, since its square "
            f"must be a number in {dtype}.",
        )


@pytree_dataclass
class PoissonNoise(NoiseModel):
    """Photon counts: counts ~ Poisson(rate), rate = peak (z + 1) / 2 + background.

    The measurement is stored on the scale of the image,
    y = 2 (counts - background) / peak - 1, so that E[y] = z. A small `peak` (photons of
    a white pixel) is strong noise; `background` > 0 (dark counts) keeps the likelihood
    finite for black pixels.

    For z < -1, which no image has but an iterate may, rate falls below the background
    and the logarithm is continued by its second-order expansion there: convex, twice
    differentiable, and pointing back into the range.

    The likelihood is half the deviance: 0 for a rate that equals the counts, and for
    pixels that were not observed (y = z = 0), about 1/2 a pixel for the truth. Rates
    above 1e4 are sampled by a normal law with the skewness of the Poisson law. An image
    in float32 holds its counts to 6e-8 of the peak.
    """

    peak: Scalar  # (), photons
    background: Scalar = 0.1  # (), photons

    def neg_log_likelihood(self, y: jax.Array, clean: jax.Array) -> jax.Array:
        counts, rate = jnp.maximum(self._photons(y), 0), self._photons(clean)
        inside = rate >= self.background
        log_rate = jnp.where(inside, rate, self.background)
        # From the images themselves, where the photons have lost digits.
        gap = self._photons_per_unit(clean) * (clean - y)
        excess = jnp.where(inside, gap, log_rate - counts)
        excess = jnp.where(counts > 0, excess, log_rate)
        energy = half_deviance(log_rate, counts, excess)
        # What the rest of the rate adds, and the expansion of the logarithm.
        below = jnp.where(inside, 0, rate / self.background - 1)
        return jnp.sum(
            energy + below * (self.background - counts) + counts * below**2 / 2
        )

    def hessian_root(self, y: jax.Array, clean: jax.Array, w: jax.Array) -> jax.Array:
        rate = jnp.maximum(self._photons(clean), self.background)
        scale = self._photons_per_unit(clean) * safe_sqrt(self._photons(y)) / rate
        return w * scale

    def sample(self, key: jax.Array, clean: jax.Array) -> jax.Array:
        # jax.random.poisson is defined for rates >= 0 only.
        rate = jnp.maximum(self._photons(clean), 0)
        counts = poisson_counts(key, rate)
        return (counts - self.background) / self._photons_per_unit(clean) - 1

    def check(self, y: Any, clean: Any) -> None:
        _require_no_overflow("peak", self.peak)
        _require_positive(
            "peak", self.peak, "it is the photon count of white, which is"
        )
        _require_positive(
            "background", self.background, "a black pixel's likelihood is"
        )

        def is_negative(y: Any, peak: Any, background: Any) -> Any:
            counts = peak * (y + 1) / 2 + background
            # y has rounded counts of 0 to either side.
            rounding = peak * float(jnp.finfo(jnp.result_type(y)).eps)
            return counts < -1e-3 * background - rounding

        require(
            not any_concrete(is_negative, y, self.peak, self.background),
            "the measurement has negative photon counts; expected "
            "y = 2 (counts - background) / peak - 1 with the peak and background of "
            "the noise model. Rescale it.",
        )

    def _photons(self, z: jax.Array) -> jax.Array:
        return self._photons_per_unit(z) * (z + 1) + self.background

    def _photons_per_unit(self, z: jax.Array) -> jax.Array:
        # Integers beyond int32 would not survive a product with an array.
        return jnp.asarray(self.peak, jnp.result_type(z, 0.0)) / 2


@pytree_dataclass
class Categorical(NoiseModel):
    """y is a class label () drawn with the probabilities softmax(z) of logits z."""

    def neg_log_likelihood(self, y: jax.Array, clean: jax.Array) -> jax.Array:
        return -jax.nn.log_softmax(clean)[y]

    def hessian_root(self, y: jax.Array, clean: jax.Array, w: jax.Array) -> jax.Array:
        # diag(p) - p p^T = R R^T with R = diag(q) (I - q q^T) and q = sqrt(p).
        q = jnp.exp(0.5 * jax.nn.log_softmax(clean))
        return q * (w - q * jnp.vdot(q, w))

    def sample(self, key: jax.Array, clean: jax.Array) -> jax.Array:
        return jax.random.categorical(key, clean)

    def measurement(self, clean: Any) -> Any:
        return jax.ShapeDtypeStruct((), jnp.int32)

    def check(self, y: Any, clean: Any) -> None:
        require(
            len(clean.shape) == 1,
            f"the logits have shape {clean.shape}; expected (num_classes,), a vector.",
        )
        num_classes = clean.shape[0]
        require(
            not any_concrete(lambda y: (y < 0) | (y >= num_classes), y),
            f"the label is {y}; expected an integer from 0 to {num_classes - 1}, the "
            "classes of the classifier.",
        )


@pytree_dataclass
class IndependentNoise(NoiseModel):
    """One noise model for each part of a stacked measurement."""

    parts: tuple[NoiseModel, ...]

    def neg_log_likelihood(self, y: Any, clean: Any) -> jax.Array:
        terms = [
            part.neg_log_likelihood(y_part, clean_part)
            for part, y_part, clean_part in zip(self.parts, y, clean, strict=True)
        ]
        return sum(terms[1:], start=terms[0])

    def hessian_root(self, y: Any, clean: Any, w: Any) -> Any:
        return tuple(
            part.hessian_root(y_part, clean_part, w_part)
            for part, y_part, clean_part, w_part in zip(
                self.parts, y, clean, w, strict=True
            )
        )

    def sample(self, key: jax.Array, clean: Any) -> Any:
        keys = jax.random.split(key, len(self.parts))
        return tuple(
            part.sample(k, clean_part)
            for part, k, clean_part in zip(self.parts, keys, clean, strict=True)
        )

    def measurement(self, clean: Any) -> Any:
        require(
            isinstance(clean, tuple) and len(clean) == len(self.parts),
            f"the noise has {len(self.parts)} parts but the operator does not return a "
            "tuple of as many measurements. Combine operators by `stack`.",
        )
        return tuple(
            part.measurement(c) for part, c in zip(self.parts, clean, strict=True)
        )

    def check(self, y: Any, clean: Any) -> None:
        for part, y_part, clean_part in zip(self.parts, y, clean, strict=True):
            part.check(y_part, clean_part)


def _standard_normal(key: jax.Array, like: jax.Array) -> jax.Array:
    noise = jax.random.normal(key, like.shape, like.dtype)
    # JAX's complex normal has a variance of 1/2 in each part; ours has 1.
    return math.sqrt(2) * noise if jnp.iscomplexobj(like) else noise


def _require_no_overflow(name: str, value: Any) -> None:
    """Refuse integers that lose their upper digits where a program is compiled."""
    whole = isinstance(value, int | np.integer | np.ndarray) and np.issubdtype(
        np.asarray(value).dtype, np.integer
    )
    require(
        not (whole and np.any(np.asarray(value) > jnp.iinfo(jnp.result_type(int)).max)),
        f"{name} is {value}, an integer that JAX cannot hold; expected a float. Write "
        f"float({value}).",
    )


def _require_positive(name: str, value: Any, reason: str) -> None:
    require(
        not any_concrete(lambda number: ~((number > 0) & np.isfinite(number)), value),
        f"{name} is {value}; expected a positive finite number, because {reason} not "
        "defined otherwise. Use a small positive value.",
    )
