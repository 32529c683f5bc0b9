"""Conjugate gradients with a fixed budget, for one system at a time.

    step = |r|^2 / <p, N p>,   x += step p,   r -= step N p,
    p = r + (|r|^2 / |r_previous|^2) p.

`jax.scipy.sparse.linalg.cg` loops until convergence: its cost depends on the data and,
under `vmap`, on the worst example of the batch; it divides by <p, N p> unguarded; and
its derivative diverges on the singular systems that masks and down-sampling give.
Here the number of products is fixed, finished systems are frozen by a mask, and
derivatives are implicit: one more solve, never a derivative of the iteration, which is
wrong whenever the iteration ends early.

Units do not matter: |r|^2 and <p, N p> would over- or underflow float32 for a b of 1e20
or 1e-20, so b and N are divided by powers of two, which rounds nothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from diffctl.numerics.safe import binary_scale, safe_divide, squared_norm

Map = Callable[[Any], Any]

_ROUNDING = 10  # times machine epsilon: what is taken for a relative zero


def conjugate_gradient(
    matvec: Map,
    b: Any,
    *,
    x0: Any = None,
    num_steps: int = 100,
    tol: float | None = None,
) -> Any:
    """Solve N x = b for a symmetric (Hermitian) positive definite N.

    A semi-definite N is fine if `b` lies in its range: from x0 = 0 the result is the
    solution of minimum norm. Its derivatives need directions within the range too.

    Args:
        matvec: x -> N x, linear, pytree to pytree of the structure of `b`.
        b: right-hand side, an array or a pytree of arrays.
        x0: first iterate, zero if left out. No derivative flows into it.
        num_steps: number of products with N, always spent; at least 1.
        tol: the iterate freezes once the residual has shrunk by this factor; ten times
            machine epsilon if left out.

    Returns:
        x, of the structure of `b`, NaN if `b` is not finite; differentiable in forward
        and reverse mode with respect to `b` and to what `matvec` closes over. Raises
        `ValueError` if `num_steps` is less than 1.
    """
    _check_budget(num_steps)

    def solve(product: Map, rhs: Any) -> Any:
        return _iterate(product, rhs, num_steps, tol)

    def solve_from_zero(rhs: Any) -> Any:
        real = all(jnp.isrealobj(leaf) for leaf in jax.tree.leaves(rhs))
        return lax.custom_linear_solve(matvec, rhs, solve, solve, symmetric=real)

    if x0 is None:
        return solve_from_zero(b)
    start = lax.stop_gradient(x0)
    residual = jax.tree.map(jnp.subtract, b, matvec(start))
    return jax.tree.map(jnp.add, start, solve_from_zero(residual))


def least_squares_cg(
    forward: Map,
    adjoint: Map,
    y: Any,
    *,
    num_steps: int = 100,
    damping: jax.typing.ArrayLike = 0.0,
) -> Any:
    """Return argmin_x |A x - y|^2 + damping |x|^2, of minimum norm if damping = 0.

    Conjugate gradients on (A^H A + damping I) x = A^H y, from zero. The relative error
    grows with the square of the condition number of A (of its non-zero part).

    Args:
        forward: x -> A x, linear.
        adjoint: y -> A^H y, its adjoint (see `diffctl.numerics.adjoint`).
        y: a measurement of the structure of A x, real or complex.
        num_steps: number of products with A^H A, always spent; at least 1.
        damping: non-negative real scalar.

    Returns:
        x, of the structure of A^H y. Raises `ValueError` if `num_steps` is less than 1.

    Derivatives: with respect to `y` they are the (damped) pseudo-inverse itself, in
    both modes and for a singular A. With respect to what `forward` closes over, the
    part that turns the null space of A is left out, and forward mode amplifies
    rounding within it (1e-9 to 1e-5, depending on the program, where reverse mode has
    1e-15, float64). Reverse mode costs two solves.
    """
    _check_budget(num_steps)
    y_unit = binary_scale(y)
    pulled = adjoint(_divided(y, y_unit))
    # About |A|: the square of a small or a large A need not fit.
    map_unit = binary_scale(pulled)

    def scaled_forward(x: Any) -> Any:
        return _divided(forward(x), map_unit)

    def scaled_adjoint(y: Any) -> Any:
        return _divided(adjoint(y), map_unit)

    def normal(x: Any) -> Any:
        # Not divided twice: XLA would divide by the square, which need not fit.
        own = damping * (1 / map_unit) * (1 / map_unit)
        return _axpy(own, x, scaled_adjoint(scaled_forward(x)))

    def solve(product: Map, rhs: Any) -> Any:
        return _iterate(product, rhs, num_steps, None)

    def solve_any(product: Map, cotangent: Any) -> Any:
        """Solve for any right-hand side, in the range of A^H or not."""

        # Without damping only the part in the range of A^H has a solution. It is
        # A^H w with w the least-squares solution of A^H w = cotangent.
        def outer(v: Any) -> Any:
            return scaled_forward(scaled_adjoint(v))

        unit = binary_scale(cotangent)
        scaled = _divided(cotangent, unit)
        w = _iterate(outer, scaled_forward(scaled), num_steps, None)
        in_range = jax.tree.map(
            lambda full, part: jnp.where(jnp.greater(damping, 0), full, part),
            scaled,
            scaled_adjoint(w),
        )
        return _times(unit, solve(product, in_range))

    rhs = _divided(pulled, map_unit)
    x = lax.custom_linear_solve(normal, rhs, solve, solve_any, symmetric=True)
    return _times(y_unit / map_unit, x)


class _State(NamedTuple):
    """One iterate for the right-hand side b / |b|; x is in units of 1 / |N|."""

    x: Any
    residual: Any
    direction: Any
    residual_squared: jax.Array
    largest: jax.Array  # Rayleigh quotient <p, N p> / <p, p> so far, over `unit`
    unit: jax.Array  # about |N|, a power of two; 1 before the first product


def _iterate(matvec: Map, b: Any, num_steps: int, tol: float | None) -> Any:
    """Run `num_steps` steps from zero; freeze on convergence and on breakdown."""
    noise = _ROUNDING * jnp.finfo(jnp.result_type(*jax.tree.leaves(b))).eps
    b_unit = binary_scale(b)
    scaled = _divided(b, b_unit)
    b_squared = _squared_norm(scaled)
    threshold = jnp.square(noise if tol is None else tol) * b_squared

    def step(state: _State, _: None) -> tuple[_State, None]:
        product = _divided(matvec(state.direction), state.unit)
        curvature = _inner(state.direction, product)
        quotient = safe_divide(curvature, _squared_norm(state.direction))
        largest = jnp.maximum(state.largest, quotient)
        # Rounding leaves a residual in the null space of a singular N, where a step
        # would be unbounded: such a direction has no curvature but rounding.
        solvable = quotient > noise * largest
        active = (state.residual_squared > threshold) & solvable
        size = jnp.where(active, safe_divide(state.residual_squared, curvature), 0)
        residual = _axpy(-size, product, state.residual)
        residual_squared = _squared_norm(residual)
        ratio = safe_divide(residual_squared, state.residual_squared)
        # The first product tells the unit of N.
        change = jnp.where(state.largest > 0, 1, binary_scale(largest))
        new = _State(
            x=_axpy(size * change, state.direction, state.x),
            residual=residual,
            direction=_axpy(ratio, state.direction, residual),
            residual_squared=residual_squared,
            largest=largest / change,
            unit=state.unit * change,
        )
        kept = jax.tree.map(lambda n, old: jnp.where(active, n, old), new, state)
        return kept, None

    zero, nothing = jax.tree.map(jnp.zeros_like, b), jnp.zeros_like(b_squared)
    start = _State(zero, scaled, scaled, b_squared, nothing, jnp.ones_like(b_squared))
    final, _ = lax.scan(step, start, None, length=num_steps)
    # No comparison holds for a NaN, so that the zero of the start would be the answer.
    factor = jnp.where(jnp.isfinite(b_squared), b_unit / final.unit, jnp.nan)
    return _times(factor, final.x)


def _check_budget(num_steps: int) -> None:
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; conjugate gradients need >= 1.")


def _squared_norm(tree: Any) -> jax.Array:
    return jax.tree.reduce(jnp.add, jax.tree.map(squared_norm, tree))


def _inner(a: Any, b: Any) -> jax.Array:
    """Return the real inner product Re <a, b> of two pytrees."""
    products = jax.tree.map(
        lambda u, v: jnp.vdot(u, v, precision=lax.Precision.HIGHEST).real, a, b
    )
    return jax.tree.reduce(jnp.add, products)


def _axpy(factor: jax.typing.ArrayLike, x: Any, y: Any) -> Any:
    """Return factor * x + y without changing the dtype of `y`."""
    return jax.tree.map(lambda u, v: jnp.asarray(factor, v.real.dtype) * u + v, x, y)


def _times(factor: jax.Array, tree: Any) -> Any:
    """Return factor * x without changing the dtype of x."""
    return jax.tree.map(lambda x: factor.astype(x.real.dtype) * x, tree)


def _divided(tree: Any, divisor: jax.Array) -> Any:
    """Return x / divisor without changing the dtype of x."""
    return jax.tree.map(lambda x: x / divisor.astype(x.real.dtype), tree)
