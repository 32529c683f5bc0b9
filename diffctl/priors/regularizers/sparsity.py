"""Sparsity in an orthonormal transform.

R(x) = weight sum |d o Psi x|,    prox = Psi^T soft(Psi x, step weight d)
"""

from typing import Any

import jax
import jax.numpy as jnp

from diffctl.core import ProximalPrior
from diffctl.numerics.shrinkage import soft_threshold
from diffctl.priors.regularizers.checks import check_weight
from diffctl.priors.regularizers.transforms import Orthonormal
from diffctl.pytree import pytree_dataclass, static


@pytree_dataclass
class Sparsity(ProximalPrior):
    """The absolute values of wavelet or cosine coefficients, averages left out.

    For denoising of d pixels, the universal threshold weight s_y^2 = s_y sqrt(2 log d)
    is a start. Blocking of orthonormal wavelets is softened by `CycleSpinning`.

    Args:
        weight: lambda in f(x) + lambda R(x), f(x) = |A x - y|^2 / (2 s_y^2).
        transform: Psi; its `detail` are the relative weights d of the coefficients.
        shape: of a signal.
    """

    weight: Any
    transform: Orthonormal
    shape: tuple[int, ...] = static()

    @classmethod
    def wavelets(
        cls, shape: tuple[int, ...], weight: Any, **settings: Any
    ) -> "Sparsity":
        """Build with `Orthonormal.wavelets(shape, **settings)`, whose errors it raises.

        Raises:
            ValueError: also for a weight that is not positive.
        """
        check_weight(weight)
        transform = Orthonormal.wavelets(shape, **settings)
        return cls(weight=weight, transform=transform, shape=shape)

    @classmethod
    def cosines(
        cls, shape: tuple[int, ...], weight: Any, **settings: Any
    ) -> "Sparsity":
        """Build with `Orthonormal.cosines(shape, **settings)`, whose errors it raises.

        Raises:
            ValueError: also for a weight that is not positive.
        """
        check_weight(weight)
        transform = Orthonormal.cosines(shape, **settings)
        return cls(weight=weight, transform=transform, shape=shape)

    def energy(self, x: jax.Array) -> jax.Array:
        """Return R(x), ()."""
        sizes = jnp.abs(self.transform.forward(x))
        return self.weight * jnp.sum(self._relative(x) * sizes)

    def prox(self, x: jax.Array, step: jax.Array) -> jax.Array:
        thresholds = step * self.weight * self._relative(x)
        shrunk = soft_threshold(self.transform.forward(x), thresholds)
        return self.transform.inverse(shrunk)

    def _relative(self, x: jax.Array) -> jax.Array:
        return self.transform.detail.astype(x.dtype)
