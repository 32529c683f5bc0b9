"""An operator without its small singular values, which noise-free solvers divide by."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from diffctl.numerics.precision import as_computed
from diffctl.operators.base import SpectralOperator
from diffctl.operators.checks import require
from diffctl.operators.rules import JointRule, SpectralRule
from diffctl.pytree import pytree_dataclass, static


@pytree_dataclass
class Truncated(SpectralOperator):
    """Another operator, with its singular values of cutoff * max(s) and below as zeros.

        A_c = U diag(s where s > cutoff max(s), else 0) V^T

    A^+ divides by every singular value, and noise of y comes back 1/s times as large. A
    blur's reach down to rounding, so that solvers that take the measurement for
    noise-free (DDNM, `NoiselessPiGDM`, `ConjugatePiGDM`, MCG, Score-SDE, ILVR) explode
    on it. Directions at or below the cut-off then count as unmeasured, which leaves
    them to the prior, and |A_c^+| <= 1 / (cutoff max(s)).

    Solvers that know the noise level need no cut-off. An operator without a singular
    system has none to truncate: use `CircularBlur` or `SeparableBlur` for `Blur`.
    """

    operator: SpectralOperator
    cutoff: Any  # (), relative to the largest singular value
    shape: tuple[int, ...] = static()

    @classmethod
    def create(cls, operator: SpectralOperator, cutoff: float = 3e-2) -> "Truncated":
        """Check that `cutoff` is in [0, 1).

        The default is that of the released codes of DDRM and DDNM, which is absolute:
        their blurs have a largest singular value near 1. They also measure with the
        truncated operator; measuring with `operator` itself is the honest test.
        """
        computed = as_computed(cutoff)
        require(
            0 <= cutoff < 1 and bool(computed < 1),
            f"cutoff is {cutoff}, {computed} in {computed.dtype}; expected "
            "0 <= cutoff < 1, a fraction of the largest singular value.",
        )
        return cls(
            operator=operator, cutoff=jnp.asarray(float(cutoff)), shape=operator.shape
        )

    @property
    def singular_values(self) -> jax.Array:
        return _truncated(self.operator.singular_values, self.cutoff)

    def to_measurement(
        self, rule: SpectralRule, x: jax.Array, *parameters: Any
    ) -> jax.Array:
        kept = partial(_on_the_kept, rule)
        return self.operator.to_measurement(kept, x, self.cutoff, *parameters)

    def combined(
        self,
        rule: JointRule,
        y: jax.Array,
        signals: tuple[jax.Array, ...],
        *parameters: Any,
    ) -> jax.Array:
        kept = partial(_on_the_kept, rule)
        return self.operator.combined(kept, y, signals, self.cutoff, *parameters)

    def restrict(self, y: Any) -> Any:
        return self.operator.restrict(y)

    def num_observed(self) -> Any:
        return self.operator.num_observed()

    def v(self, z: jax.Array) -> jax.Array:
        return self.operator.v(z)

    def v_adjoint(self, x: jax.Array) -> jax.Array:
        return self.operator.v_adjoint(x)

    def u(self, z: jax.Array) -> jax.Array:
        return self.operator.u(z)

    def u_adjoint(self, y: jax.Array) -> jax.Array:
        return self.operator.u_adjoint(y)


def _truncated(s: jax.Array, cutoff: jax.Array) -> jax.Array:
    return jnp.where(s > cutoff.astype(s.dtype) * jnp.max(s, initial=0.0), s, 0)


def _on_the_kept(
    rule: JointRule, s: jax.Array, z: Any, cutoff: jax.Array, *parameters: Any
) -> jax.Array:
    return rule(_truncated(s, cutoff), z, *parameters)
