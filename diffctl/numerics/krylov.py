"""Conjugate gradients with a fixed budget, for one system at a time.

    step = |r|^2 / <p, N p>,   x += step p,   r -= step N p,
    p = r + (|r|^2 / |r_previous|^2) p.

`jax.scipy.sparse.linalg.cg` loops until convergence: its cost depends on the data and,
under `vmap`, on the worst example of the batch; it divides by <p, N p> unguarded; and
its derivative diverges on the singular systems that masks and down-sampling give.
Here the number of products is fixed, finished systems are frozen by a mask, and
derivatives are implicit: one more solve, never a derivative of the iteration, which is
wrong whenever the iteration ends early.

Units do not matter. |r|^2 and <p, N p> would over- or underflow float32 for a b of 1e20
or 1e-20, and A^H A for an A of either; so b is divided by a power of two near its
largest entry and p by one near sqrt(|N|), which rounds nothing and costs no pass.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from diffctl.numerics.safe import binary_scale, safe_divide, squared_norm
from diffctl.numerics.varying import varying_alike

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
        return _iterate(product, rhs, num_steps, tol, jnp.ones(()))

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
    pulled = adjoint(_times(1 / y_unit, y))
    # About |A|, whose square need not fit.
    root = binary_scale(pulled)

    def normal(x: Any) -> Any:
        return _axpy(damping, x, adjoint(forward(x)))

    def scaled_normal(x: Any) -> Any:
        measured = _times(1 / root, forward(x))
        # Not divided twice, which XLA turns into one division by the square.
        own = damping * (1 / root) * (1 / root)
        return _axpy(own, x, _times(1 / root, adjoint(measured)))

    def solve(_: Map, rhs: Any) -> Any:
        return _iterate(normal, rhs, num_steps, None, root)

    def solve_any(_: Map, cotangent: Any) -> Any:
        """Solve for any right-hand side, in the range of A^H or not."""
        # Without damping only the part in the range of A^H has a solution. It is
        # A^H w with w the least-squares solution of A^H w = cotangent.
        unit = binary_scale(cotangent)
        scaled = _times(1 / unit, cotangent)
        outer = _times(1 / root, forward(scaled))
        w = _iterate(lambda v: forward(adjoint(v)), outer, num_steps, None, root)
        in_range = jax.tree.map(
            lambda full, part: jnp.where(jnp.greater(damping, 0), full, part),
            scaled,
            _times(1 / root, adjoint(w)),
        )
        return _times(unit, _iterate(normal, in_range, num_steps, None, root))

    rhs = _times(1 / root, pulled)
    x = lax.custom_linear_solve(scaled_normal, rhs, solve, solve_any, symmetric=True)
    return _times(y_unit / root, x)


class _State(NamedTuple):
    """The iterate for N / root^2 and a right-hand side of about 1."""

    x: Any
    residual: Any
    direction: Any  # p / root: N p / root fits where N itself may not
    residual_squared: jax.Array
    largest: jax.Array  # Rayleigh quotient <p, N p> / <p, p> / root^2 so far
    root: jax.Array  # about sqrt(|N|) from the first step on, a power of two


def _iterate(
    matvec: Map, b: Any, num_steps: int, tol: float | None, root: jax.Array
) -> Any:
    """Solve N x / root^2 = b by `num_steps` steps from zero.

    The iterate freezes on convergence and on breakdown.
    """
    noise = _ROUNDING * jnp.finfo(jnp.result_type(*jax.tree.leaves(b))).eps
    unit = binary_scale(b)
    scaled = _times(1 / unit, b)
    b_squared = _squared_norm(scaled)
    threshold = jnp.square(noise if tol is None else tol) * b_squared

    def step(state: _State, _: None) -> tuple[_State, None]:
        product = matvec(state.direction)
        curvature = _inner(state.direction, product)
        direction = _times(state.root, state.direction)
        quotient = safe_divide(curvature, _squared_norm(direction))
        largest = jnp.maximum(state.largest, quotient)
        # Rounding leaves a residual in the null space of a singular N, where a step
        # would be unbounded: such a direction has no curvature but rounding.
        solvable = quotient > noise * largest
        active = (state.residual_squared > threshold) & solvable
        size = jnp.where(active, safe_divide(state.residual_squared, curvature), 0)
        residual = _axpy(-size / state.root, product, state.residual)
        residual_squared = _squared_norm(residual)
        ratio = safe_divide(residual_squared, state.residual_squared)
        # The first product tells the unit of N.
        change = jnp.where(state.largest > 0, 1, binary_scale(jnp.sqrt(largest)))
        root = state.root * change
        new = _State(
            x=_axpy(size * change * change, direction, state.x),
            residual=residual,
            direction=_times(1 / root, _axpy(ratio, direction, residual)),
            residual_squared=residual_squared,
            largest=largest / change / change,
            root=root,
        )
        kept = jax.tree.map(lambda n, old: jnp.where(active, n, old), new, state)
        return kept, None

    start = _State(
        x=jax.tree.map(jnp.zeros_like, b),
        residual=scaled,
        direction=_times(1 / root, scaled),
        residual_squared=b_squared,
        largest=jnp.zeros_like(b_squared),
        root=root,
    )
    final, _ = lax.scan(step, varying_alike(start), None, length=num_steps)
    # No comparison holds for a NaN, so that the zero of the start would be the answer.
    solved = jnp.isfinite(b_squared)
    change = final.root / root
    return _times(jnp.where(solved, unit / (change * change), jnp.nan), final.x)


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
