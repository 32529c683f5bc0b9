"""Measurement maps y = A(x0) + noise, for one example, as pytrees.

Capability is a class: `Operator` can be evaluated and differentiated,
`LinearOperator` adds the adjoint and the pseudo-inverse, `SpectralOperator` a fast
singular system. Solvers name the class they need.

Signals are real. Measurements may be complex; they then count as pairs of real
numbers, so inner products of measurements are Re <y, y'> everywhere in this room.
"""

import abc
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from diffctl.numerics.adjoint import linear_adjoint
from diffctl.numerics.dtypes import float_spec
from diffctl.numerics.factors import inverse_values
from diffctl.numerics.krylov import least_squares_cg
from diffctl.operators.rules import (
    JointRule,
    SpectralRule,
    damped,
    inverted,
    of_measurement,
)
from diffctl.pytree import pytree_dataclass


class Operator(abc.ABC):
    """A deterministic, differentiable map A from a signal to a clean measurement."""

    shape: tuple[int, ...]  # of the signal x, one example

    @abc.abstractmethod
    def __call__(self, x: jax.Array) -> Any:
        """Return A(x): `x` (*shape) -> an array or a pytree of arrays."""

    @property
    def bound(self) -> Any:
        """Largest |A(x)| over signals in [-1, 1], or None where it is not known.

        Only used to recognise measurements on a wrong scale.
        """
        return None

    def restrict(self, y: Any) -> Any:
        """Return `y` with the entries that were never observed set to zero.

        Operators that leave entries out (masks) keep the full measurement shape, with
        A(x) = 0 there. Restricted measurements therefore have no residual there.
        """
        return y

    def num_observed(self) -> Any:
        """Return how many real numbers are measured (a complex one counts twice)."""
        return sum(
            math.prod(leaf.shape) * (2 if _is_complex(leaf) else 1)
            for leaf in jax.tree.leaves(self.measurement_spec())
        )

    def measurement_spec(self) -> Any:
        """Return the shapes and dtypes of A(x), without computing it."""
        # A plain function is traced once; an operator that is called itself would be
        # traced, and printed with all of its arrays, every time.
        return jax.eval_shape(_apply, self, float_spec(self.shape))

    def __matmul__(self, inner: "Operator") -> "Operator":
        """Return the composition x -> self(inner(x))."""
        # Compositions are operators themselves, so their module imports this one.
        from diffctl.operators.compose import compose

        return compose(self, inner)


def _apply(operator: Operator, x: jax.Array) -> Any:
    return operator(x)


class LinearOperator(Operator):
    """A linear A with its Hermitian adjoint: <A x, y> = <x, A^H y>."""

    def adjoint(self, y: Any) -> jax.Array:
        """Return A^H y, derived from `__call__` by linear transposition."""
        return linear_adjoint(self, self.shape, y)

    def normal(self, x: jax.Array) -> jax.Array:
        """Return A^H A x."""
        return self.adjoint(self(x))

    def pinv(self, y: Any) -> jax.Array:
        """Return the minimum-norm least-squares solution A^+ y.

        The default runs conjugate gradients on the normal equations from zero, so its
        accuracy depends on the conditioning of A; subclasses override it by the closed
        form where there is one.
        """
        return least_squares_cg(self, self.adjoint, y)

    def damped_pinv(self, y: Any, damping: jax.typing.ArrayLike) -> jax.Array:
        """Return A^H (A A^H + damping I)^{-1} y for damping > 0.

        It minimises |A x - y|^2 + damping |x|^2, and tends to A^+ y with the damping.
        The default runs conjugate gradients.
        """
        return least_squares_cg(self, self.adjoint, y, damping=damping)


class SpectralOperator(LinearOperator):
    """A = U diag(s) V^H with fast U and V, in real arithmetic.

    The spectral vector is real and has as many entries as there are singular values.
    V has orthonormal columns, and so have the columns of U with s > 0; columns of U
    that belong to s = 0 may vanish. V need not be square: what V^H does not see,
    x - V V^H x, lies in the null space of A.
    """

    @property
    @abc.abstractmethod
    def singular_values(self) -> jax.Array:
        """Singular values s >= 0, (k,), in no particular order; zeros allowed."""

    @abc.abstractmethod
    def v(self, z: jax.Array) -> jax.Array:
        """Return V z: spectral (k,) -> signal (*shape)."""

    @abc.abstractmethod
    def v_adjoint(self, x: jax.Array) -> jax.Array:
        """Return V^H x: signal -> spectral."""

    @abc.abstractmethod
    def u(self, z: jax.Array) -> jax.Array:
        """Return U z: spectral -> measurement."""

    @abc.abstractmethod
    def u_adjoint(self, y: jax.Array) -> jax.Array:
        """Return U^H y: measurement -> spectral (real)."""

    def to_measurement(
        self, rule: SpectralRule, x: jax.Array, *parameters: Any
    ) -> jax.Array:
        """Return U rule(s, V^H x, *parameters), of the structure of y.

        This, `to_signal` and `combined` have derivatives in a dense A also where
        singular values coincide, where those of `u`, `v` and their adjoints are NaN.
        Arrays that are differentiated are `parameters`, which are pytrees.
        """
        z = self.v_adjoint(x)
        return self.u(rule(self.singular_values.astype(z.dtype), z, *parameters))

    def to_signal(
        self, rule: SpectralRule, y: jax.Array, *parameters: Any
    ) -> jax.Array:
        """Return V rule(s, U^H y, *parameters), (*shape)."""
        return self.combined(partial(of_measurement, rule), y, (), *parameters)

    def combined(
        self,
        rule: JointRule,
        y: jax.Array,
        signals: tuple[jax.Array, ...],
        *parameters: Any,
    ) -> jax.Array:
        """Return V rule(s, (U^H y, V^H x, V^H x', ...), *parameters), (*shape).

        Where s is 0, the coefficients of the signals have the slope 0 in s: unmeasured
        directions are no matter of A.
        """
        z = self.u_adjoint(y)
        s = self.singular_values.astype(z.dtype)
        # What was not observed may be NaN; 0 times it must not be.
        z = jnp.where((s > 0) | jnp.isfinite(z), z, 0)
        return self.v(rule(s, (z, *map(self.v_adjoint, signals)), *parameters))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return U diag(s) V^H x."""
        return self.to_measurement(jnp.multiply, x)

    def adjoint(self, y: jax.Array) -> jax.Array:
        """Return V diag(s) U^H y."""
        return self.to_signal(jnp.multiply, y)

    def pinv(self, y: jax.Array, *, cutoff: Any = 0.0) -> jax.Array:
        """Return V diag(1/s) U^H y; singular values at rounding level count as zero.

        Small ones do not, unless they are at or below `cutoff` times the largest;
        `Truncated` is the operator without them.
        """
        return self.to_signal(inverted, y, cutoff)

    def damped_pinv(self, y: jax.Array, damping: jax.typing.ArrayLike) -> jax.Array:
        return self.to_signal(damped, y, damping)

    def inverse_singular_values(
        self, dtype: jax.typing.DTypeLike, *, cutoff: Any = 0.0
    ) -> jax.Array:
        """Return 1/s, (k,), with 0 for singular values at the rounding of `dtype`.

        Also for those at or below `cutoff` times the largest.
        """
        return inverse_values(self.singular_values.astype(dtype), cutoff)


class NoiseModel(abc.ABC):
    """The law of a measurement given the clean measurement A(x)."""

    @abc.abstractmethod
    def neg_log_likelihood(self, y: Any, clean: Any) -> jax.Array:
        """Return -log p(y | clean) up to a constant, a real scalar.

        Chains, weights and line searches compare such values: choose the constant, any
        function of y, so that they are not large where `clean` explains y.
        Differentiable twice in `clean`, for every value of `clean`.
        """

    @abc.abstractmethod
    def sample(self, key: jax.Array, clean: Any) -> Any:
        """Draw a measurement."""

    @abc.abstractmethod
    def hessian_root(self, y: Any, clean: Any, w: Any) -> Any:
        """Return R w, linear in `w`, with R R^T the Hessian of -log p in `clean`.

        `w` and the result have the structure of `clean`; complex entries count as two
        real ones. For noise that is log-concave in the clean measurement.
        """

    def measurement(self, clean: Any) -> Any:
        """Return shapes and dtypes of y, given those of the clean measurement."""
        return clean

    def check(self, y: Any, clean: Any) -> None:  # noqa: B027 (optional)
        """Raise ValueError on parameters or values of `y` that make no sense.

        Runs on the host; `clean` holds shapes and dtypes. Tracers are not looked at.
        """


class WhiteNoise(NoiseModel):
    """Gaussian noise with one standard deviation: y = A(x0) + std * n.

    Solvers that need the noise level itself, not only the likelihood, ask for this
    class. Real and imaginary parts of complex measurements are independent.
    """

    std: Any  # () on the scale of the measurement


@pytree_dataclass
class Problem:
    """One inverse problem: what was measured, how, and with what noise.

    For a mask, entries of `y` that were not observed should be zero: `simulate` and
    `Operator.restrict` see to that.
    """

    y: Any  # measurement, of the structure that `operator` returns
    operator: Operator
    noise: NoiseModel

    def misfit(self, x: jax.Array) -> jax.Array:
        """Return l(x) = -log p(y | x) up to a constant."""
        return self.noise.neg_log_likelihood(self.y, self.operator(x))

    def residual(self, x: jax.Array) -> Any:
        """Return y - A(x), of the structure of y.

        Raises:
            TypeError: y is no noisy A(x) but, for example, a class label.
        """
        clean = self.operator(x)
        shapes = [jax.tree.map(jnp.shape, side) for side in (self.y, clean)]
        if shapes[0] != shapes[1]:
            raise TypeError(
                f"y has the shape {shapes[0]} and A(x) the shape {shapes[1]}, so that "
                "there is no residual. Choose a cost on the likelihood instead "
                "(`likelihood`, `negative_log_likelihood`)."
            )
        return jax.tree.map(jnp.subtract, self.y, clean)

    def gauss_newton(self, x: jax.Array, v: jax.Array) -> jax.Array:
        """Return J^T L J v: J the Jacobian of A at x, L the Hessian of -log p in A(x).

        Positive semi-definite for noise models that are log-concave in the clean
        measurement (all of this package), and the exact Hessian of `misfit` for linear
        operators. Costs one JVP and one VJP of the operator.
        """
        clean, clean_dot = jax.jvp(self.operator, (x,), (v,))

        def misfit_grad(clean: Any) -> Any:
            return jax.grad(self.noise.neg_log_likelihood, argnums=1)(self.y, clean)

        _, grad_dot = jax.jvp(misfit_grad, (clean,), (clean_dot,))
        _, pull_back = jax.vjp(self.operator, x)
        return pull_back(grad_dot)[0]


def simulate(
    key: jax.Array, operator: Operator, noise: NoiseModel, x0: jax.Array
) -> Any:
    """Draw y ~ p(y | A(x0)), zero where the operator observes nothing.

    `x0` (*operator.shape) in [-1, 1]. Public codes of DPS and DOC add noise to the
    unobserved pixels of a mask as well, where it enters their residual norms; that is
    `noise.sample(key, operator(x0))`, without the restriction.
    """
    return operator.restrict(noise.sample(key, operator(x0)))


def _is_complex(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jnp.complexfloating))
