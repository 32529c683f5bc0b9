"""Denoisers as regularisers: what plug-and-play and RED ask of a prior.

1. plug-and-play   prox(x, step) = D(x; s),   s^2 = weight step
2. RED             prox of l x^T (x - D(x)) / 2:  v <- (x + step l D(v)) / (1 + step l)
3. cycle spinning  prox = mean over shifts of  shift back, prox, shift
"""

from typing import Any

import jax
import jax.numpy as jnp

from diffctl.core import Calls, DiffusionPrior, ProximalPrior
from diffctl.numerics.safe import safe_sqrt
from diffctl.pytree import pytree_dataclass, static


@pytree_dataclass
class DenoiserProx(ProximalPrior):
    """A diffusion prior as a proximal map: the denoiser at level sqrt(weight * step).

    With weight 1, a step of s^2 denoises at level s. The denoiser of a Gaussian prior
    is the proximal map of its -log p; that of another prior belongs to another
    regulariser, if to any.

    Args:
        prior: any diffusion prior; one forward in each call.
        weight: lambda, ().
        damping: share of x that is kept, in [0, 1): (1 - damping) D(x) + damping x.
            Convergence asks for little-expanding denoisers, which networks at small
            levels are not.
    """

    prior: DiffusionPrior
    weight: Any = 1.0
    damping: Any = 0.0

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.prior.shape

    def prox(self, x: jax.Array, step: jax.Array) -> jax.Array:
        sigma = safe_sqrt(self.weight * step).astype(x.dtype)
        denoised = self.prior.denoise(x, sigma)
        return denoised + self.damping * (x - denoised)

    def prox_calls(self) -> Calls:
        return Calls(fwd=1)


@pytree_dataclass
class RegularizedByDenoising(ProximalPrior):
    """RED's R(x) = strength / 2 x^T (x - D(x)) as a proximal map, by fixed points.

    `ADMM` with it is the ADMM of the paper. The iteration contracts if D does not
    expand; its error falls by step l / (1 + step l) each time.

    Args:
        denoiser: D(x) = denoiser.prox(x, variance): a `DenoiserProx`, `NonLocalMeans`
            or any other.
        strength: l, ().
        variance: that D removes, ().
        num_inner: iterations, each one call of the denoiser.
    """

    denoiser: ProximalPrior
    strength: Any
    variance: Any
    num_inner: int = static(default=1)

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.denoiser.shape

    def prox(self, x: jax.Array, step: jax.Array) -> jax.Array:
        scaled = step * self.strength
        variance = jnp.asarray(self.variance, x.dtype)

        def iterate(v: jax.Array, _: None) -> tuple[jax.Array, None]:
            return (x + scaled * self.denoiser.prox(v, variance)) / (1 + scaled), None

        return jax.lax.scan(iterate, x, None, length=self.num_inner)[0]

    def prox_calls(self) -> Calls:
        once = self.denoiser.prox_calls()
        return jax.tree.map(lambda count: self.num_inner * count, once)


@pytree_dataclass
class CycleSpinning(ProximalPrior):
    """The mean of a proximal map over shifts of the image (Coifman and Donoho, 1995).

    Orthonormal wavelets treat pixels differently according to their position; the mean
    does not. There is no regulariser of which this is the proximal map.

    Args:
        inner: what is averaged.
        shifts: along the first axes of the signal, cyclic; one call of `inner` each.
    """

    inner: ProximalPrior
    shifts: tuple[tuple[int, ...], ...] = static(
        default=((0, 0), (0, 1), (1, 0), (1, 1))
    )

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.inner.shape

    def prox(self, x: jax.Array, step: jax.Array) -> jax.Array:
        if not self.shifts:
            raise ValueError("shifts is empty; expected at least one, such as (0, 0).")
        found = [self._at(x, step, shift) for shift in self.shifts]
        return sum(found[1:], start=found[0]) / len(found)

    def prox_calls(self) -> Calls:
        once = self.inner.prox_calls()
        return jax.tree.map(lambda count: len(self.shifts) * count, once)

    def _at(self, x: jax.Array, step: jax.Array, shift: tuple[int, ...]) -> jax.Array:
        axes = tuple(range(len(shift)))
        moved = self.inner.prox(jnp.roll(x, shift, axes), step)
        return jnp.roll(moved, tuple(-s for s in shift), axes)
