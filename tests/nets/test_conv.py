"""The convolution primitive against `lax`, under every transform that solvers use."""

import time
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from diffctl.numerics import conv
from diffctl.numerics.conv import conv2d
from tests.tolerances import EXACT32, EXACT64, NET_BF16

GEOMETRIES = [
    # Extent of the image, extent of the kernel, stride and padding.
    ((6, 5), (3, 3), 1, 1),
    ((6, 5), (3, 3), 2, 1),
    ((7, 8), (2, 4), 3, ((0, 2), (1, 1))),
    ((8, 8), (3, 3), 2, 0),  # the last row and column are never read
    ((5, 4), (5, 3), 1, ((4, 4), (2, 2))),
    ((6, 6), (1, 1), 1, 0),
    ((6, 7), (1, 1), 2, 0),
    ((8, 8), (6, 6), 1, 2),  # more taps than the product per tap is used for
]


def _oracle(x, kernel, stride, padding):
    if isinstance(padding, int):
        padding = ((padding, padding),) * 2
    return lax.conv_general_dilated(
        x[None], kernel, (stride, stride), padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )[0]  # fmt: skip


def _cases(function, size, taps):
    """Values and derivatives of f(x, kernel): a dictionary of what transforms give."""
    rng = np.random.default_rng(1)
    x, dx = (jnp.asarray(rng.normal(size=(*size, 3))) for _ in range(2))
    kernel, dkernel = (jnp.asarray(rng.normal(size=(*taps, 3, 2))) for _ in range(2))
    xs, kernels = jnp.stack([x, dx]), jnp.stack([kernel, dkernel])

    def scalar(x, kernel):
        return jnp.sum(jnp.sin(function(x, kernel)))

    gradient = jax.grad(scalar, argnums=(0, 1))

    @jax.jit
    def everything(x, dx, kernel, dkernel):
        return {
            "value": function(x, kernel),
            "jvp": jax.jvp(function, (x, kernel), (dx, dkernel)),
            "vjp": gradient(x, kernel),
            "second": jax.jvp(gradient, (x, kernel), (dx, dkernel)),
            "reverse twice": jax.grad(
                lambda x, k: jnp.vdot(gradient(x, k)[0], dx), argnums=(0, 1)
            )(x, kernel),
            "x mapped": jax.vmap(function, (2, None), 1)(
                jnp.moveaxis(xs, 0, 2), kernel
            ),
            "kernel mapped": jax.vmap(function, (None, 0))(x, kernels),
            "both mapped": jax.vmap(function, (0, 1))(xs, jnp.moveaxis(kernels, 0, 1)),
            "mapped vjp": jax.vmap(gradient, (0, None))(xs, kernel),
            "twice mapped": jax.vmap(jax.vmap(function, (0, None)), (None, 0))(
                xs, kernels
            ),
            "checkpoint": jax.grad(jax.checkpoint(scalar), argnums=(0, 1))(x, kernel),
        }

    return everything(x, dx, kernel, dkernel)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("size", "taps", "stride", "padding"), GEOMETRIES)
def test_all_derivatives_equal_those_of_lax(size, taps, stride, padding):
    geometry = {"stride": stride, "padding": padding}
    found = _cases(partial(conv2d, **geometry), size, taps)
    expected = _cases(partial(_oracle, **geometry), size, taps)
    chex.assert_trees_all_close(found, expected, **EXACT64)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("size", "taps", "stride", "padding"), GEOMETRIES)
def test_the_transpose_of_many_weights_has_the_same_derivatives(
    size, taps, stride, padding, monkeypatch
):
    monkeypatch.setattr(conv, "_weights_dominate", lambda ct, kernel: True)
    test_all_derivatives_equal_those_of_lax(size, taps, stride, padding)


@pytest.mark.usefixtures("x64")
def test_a_kernel_larger_than_the_image_is_pulled_back_in_place():
    rng = np.random.default_rng(4)
    x = jnp.asarray(rng.normal(size=(4, 4, 360)))
    kernel = jnp.asarray(rng.normal(size=(3, 3, 360, 360)) / 57)
    found, expected = (
        jax.jit(jax.grad(lambda x, f=f: jnp.sum(f(x, kernel) ** 2)))(x)
        for f in (partial(conv2d, padding=1), lambda x, k: _oracle(x, k, 1, 1))
    )
    program = jax.jit(jax.grad(lambda x: jnp.sum(conv2d(x, kernel, padding=1) ** 2)))
    assert " reverse(" not in program.lower(x).compile().as_text()
    chex.assert_trees_all_close(found, expected, **EXACT64)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [("float32", EXACT32), ("float64", EXACT64), ("bfloat16", NET_BF16)],
)
def test_dtypes_and_eager_evaluation(dtype, tolerance):
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.normal(size=(6, 6, 3)), dtype)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 3, 2)) / 5, dtype)
    found = conv2d(x, kernel, stride=2, padding=1)
    wide = _oracle(x.astype(float), kernel.astype(float), 2, 1)
    assert found.dtype == jnp.dtype(dtype)
    chex.assert_trees_all_close(found.astype(float), wide, **tolerance)
    pulled = jax.vjp(partial(conv2d, stride=2, padding=1), x, kernel)[1](found)
    assert [leaf.dtype for leaf in pulled] == [found.dtype] * 2


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("size", "taps", "stride", "padding"), GEOMETRIES[:4])
def test_the_transpose_is_the_adjoint(size, taps, stride, padding):
    rng = np.random.default_rng(3)
    kernel = jnp.asarray(rng.normal(size=(*taps, 3, 2)))
    x = jnp.asarray(rng.normal(size=(*size, 3)))
    correlate = jax.jit(partial(conv2d, kernel=kernel, stride=stride, padding=padding))
    y = jnp.asarray(rng.normal(size=correlate(x).shape))
    (back,) = jax.jit(jax.linear_transpose(correlate, x))(y)
    np.testing.assert_allclose(jnp.vdot(correlate(x), y), jnp.vdot(x, back), **EXACT64)


def _chain(conv, x, kernel, num_steps):
    def body(x, _):
        return jnp.tanh(conv(x, kernel)), None

    return lax.scan(body, x, None, length=num_steps)[0]


@pytest.mark.usefixtures("x64")
def test_reverse_mode_through_a_scan():
    rng = np.random.default_rng(4)
    x = jnp.asarray(rng.normal(size=(5, 5, 2)))
    kernel = jnp.asarray(rng.normal(size=(3, 3, 2, 2)) / 3)

    def gradient(conv):
        total = lambda x, kernel: jnp.sum(_chain(conv, x, kernel, 3) ** 2)  # noqa: E731
        return jax.jit(jax.grad(total, argnums=(0, 1)))(x, kernel)

    chex.assert_trees_all_close(
        gradient(partial(conv2d, padding=1)),
        gradient(partial(_oracle, stride=1, padding=1)),
        **EXACT64,
    )


@pytest.mark.slow
def test_the_vjp_in_a_scan_stays_on_the_fast_path():
    """Healthy is a ratio of 2 to 3.5; XLA:CPU's slow path is 20 to 30."""
    rng = np.random.default_rng(5)
    x = jnp.asarray(rng.normal(size=(28, 28, 32)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 32, 32)) / 17, jnp.float32)
    conv = partial(conv2d, padding=1)

    @jax.jit
    def forward(x):
        return _chain(conv, x, kernel, 20)

    @jax.jit
    def pull_backs(x):
        def body(x, _):
            return jax.vjp(lambda x: jnp.tanh(conv(x, kernel)), x)[1](x)[0], None

        return lax.scan(body, x, None, length=20)[0]

    ratio = _seconds(pull_backs, x) / _seconds(forward, x)
    assert ratio < 10, f"VJP over forward: {ratio:.1f}"


def _seconds(function, x):
    jax.block_until_ready(function(x))
    times = []
    for _ in range(7):
        start = time.perf_counter()
        jax.block_until_ready(function(x))
        times.append(time.perf_counter() - start)
    return min(times)
