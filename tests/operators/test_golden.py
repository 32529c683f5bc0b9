"""Each operator against an independent computation, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from diffctl import operators as ops
from tests.tolerances import EXACT32, EXACT64

IMAGE = np.random.default_rng(0).uniform(-1, 1, (9, 8, 3))
KEY = jax.random.key(3)


def _close(found, expected):
    np.testing.assert_allclose(np.asarray(found), expected, **EXACT64)


def test_masks_hide_what_they_say(x64):
    shape = (9, 8, 3)
    box = np.ones(shape)
    box[2:6, 3:8] = 0
    _close(ops.Mask.from_bbox(shape, top=2, left=3, size=(4, 5)).mask, box)
    half = ops.Mask.half(shape)
    _close(half(jnp.asarray(IMAGE)), IMAGE * (np.arange(8) < 4)[None, :, None])
    assert half.num_observed() == 9 * 4 * 3
    _close(ops.Mask.from_array(box[..., 0], shape).mask, box)


def test_random_mask_drops_an_exact_share_of_pixels_in_all_channels():
    mask = np.asarray(ops.Mask.random(KEY, (10, 10, 3), drop_fraction=0.92).mask)
    assert mask[..., 0].sum() == 8
    np.testing.assert_array_equal(mask[..., 0], mask[..., 2])
    draw = jax.vmap(lambda k: ops.Mask.random(k, (6, 6, 1), drop_fraction=0.5).mask)
    share = np.asarray(draw(jax.random.split(KEY, 400))).mean(0)
    # 36 pixels, 400 masks: 5 standard errors of a fair coin.
    assert np.abs(share - 0.5).max() < 5 * 0.5 / 20


def test_random_box_stays_inside_the_margin():
    draw = jax.vmap(lambda k: ops.Mask.random_bbox(k, (8, 9, 1), size=3, margin=2).mask)
    masks = np.asarray(draw(jax.random.split(KEY, 64)))[..., 0]
    hidden = 1 - masks
    assert np.all(hidden.sum((1, 2)) == 9)
    seen = hidden.max(0)
    expected = np.zeros((8, 9))
    expected[2:6, 2:7] = 1
    np.testing.assert_array_equal(seen, expected)


def test_block_average_is_a_reshaped_mean(x64):
    x = IMAGE[:6, :8]
    operator = ops.BlockAverage.create((6, 8, 3), 2)
    _close(operator(jnp.asarray(x)), x.reshape(3, 2, 4, 2, 3).mean((1, 3)))
    y = IMAGE[:3, :4]
    _close(operator.pinv(jnp.asarray(y)), np.kron(y, np.ones((2, 2, 1))))


def _bicubic_loop(signal: np.ndarray, factor: float) -> np.ndarray:
    """Resample one row by the definition, a tap at a time."""
    size = len(signal)

    def kappa(d):
        d = abs(d)
        if d >= 2:
            return 0.0
        if d <= 1:
            return 1.5 * d**3 - 2.5 * d**2 + 1
        return -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2

    out = []
    for p in range(int(np.ceil(size / factor))):
        # The 1-based coordinate p / s + (1 - 1 / s) / 2 of the original resizer.
        center = (p + 1) * factor + 0.5 * (1 - factor) - 1
        total = weight_sum = 0.0
        for j in range(-5 * size, 6 * size):
            weight = kappa((center - j) / factor)
            mirror = np.concatenate([np.arange(size), np.arange(size)[::-1]])
            total += weight * signal[mirror[j % (2 * size)]]
            weight_sum += weight
        out.append(total / weight_sum)
    return np.array(out)


@pytest.mark.parametrize("factor", [2, 4, 2.5])
def test_bicubic_is_the_loop_over_taps(factor, x64):
    operator = ops.BicubicSuperResolution.create((9, 8, 3), factor)
    rows = np.apply_along_axis(_bicubic_loop, 0, IMAGE, factor)
    _close(
        operator(jnp.asarray(IMAGE)),
        np.apply_along_axis(_bicubic_loop, 1, rows, factor),
    )


def test_bicubic_has_sixteen_taps_and_keeps_straight_lines(x64):
    from diffctl.operators.resampling import bicubic_matrix

    matrix = bicubic_matrix(64, 4)
    assert np.count_nonzero(matrix[8]) == 16
    _close(matrix.sum(1), np.ones(16))
    inner = (matrix @ np.arange(64.0))[2:-2]
    _close(inner, 4 * np.arange(2, 14) + 1.5)


def _scipy_blur(x, kernel, mode):
    channels = np.moveaxis(x, -1, 0)
    blurred = [ndimage.convolve(channel, kernel, mode=mode) for channel in channels]
    return np.stack(blurred, axis=-1)


BLURS = {
    "mirror": lambda kernel: ops.Blur.create((9, 8, 3), kernel),
    "constant": lambda kernel: ops.Blur.create((9, 8, 3), kernel, ops.zero_padding),
    "wrap": lambda kernel: ops.CircularBlur.create((9, 8, 3), kernel),
}


@pytest.mark.parametrize("size", [(3, 5), (4, 3), (13, 11)])
@pytest.mark.parametrize("mode", BLURS)
def test_blur_is_a_direct_convolution_of_each_channel(mode, size, x64):
    # Channels must not be mixed up: scrambled singular values pass all other tests.
    kernel = np.random.default_rng(1).uniform(size=size)
    operator = BLURS[mode](jnp.asarray(kernel))
    _close(operator(jnp.asarray(IMAGE)), _scipy_blur(IMAGE, kernel, mode))


def test_circular_blur_through_its_singular_system(x64):
    kernel = np.random.default_rng(1).uniform(size=(3, 4))
    a = ops.CircularBlur.create((9, 8, 3), jnp.asarray(kernel))
    found = a.u(a.singular_values * a.v_adjoint(jnp.asarray(IMAGE)))
    _close(found, _scipy_blur(IMAGE, kernel, "wrap"))


@pytest.mark.parametrize(
    "padding, mode", [(ops.reflect_padding, "mirror"), (ops.zero_padding, "constant")]
)
def test_separable_blur_is_a_direct_convolution(padding, mode, x64):
    rows, cols = np.random.default_rng(2).uniform(size=(2, 5))
    operator = ops.SeparableBlur.create((9, 8, 3), rows, cols, padding)
    expected = _scipy_blur(IMAGE, rows[:, None] * cols[None, :], mode)
    _close(operator(jnp.asarray(IMAGE)), expected)


def test_gaussian_blur_is_that_of_scipy(x64):
    # scipy cuts off at 4 std, which is 25 taps for std 3: the kernel of DPS.
    operator = ops.Blur.create((9, 8, 3), ops.gaussian_kernel(25, 3.0))
    expected = ndimage.gaussian_filter(IMAGE, (3, 3, 0), mode="mirror")
    _close(operator(jnp.asarray(IMAGE)), expected)


def test_fourier_is_that_of_numpy(x64):
    mask = np.random.default_rng(3).uniform(size=(9, 8)) < 0.5
    operator = ops.SubsampledFourier.from_array(mask, (9, 8, 3))
    spectrum = np.fft.fft2(IMAGE, axes=(0, 1)) / np.sqrt(72)
    _close(operator(jnp.asarray(IMAGE)), spectrum * mask[..., None])
    pair = ops.SubsampledComplexFourier.from_array(mask, (9, 8, 2))
    image = IMAGE[..., 0] + 1j * IMAGE[..., 1]
    _close(pair(jnp.asarray(IMAGE[..., :2])), np.fft.fft2(image) / np.sqrt(72) * mask)


def test_column_mask_samples_whole_columns_and_the_centre():
    mask = np.asarray(
        ops.column_mask(KEY, 4, 50, keep_fraction=0.3, center_fraction=0.1)
    )
    assert np.all(mask == mask[:1]) and mask[0].sum() == 15
    assert np.all(np.fft.fftshift(mask[0])[23:28] == 1)


def test_dense_matrix_is_a_matrix_product(x64):
    matrix = np.random.default_rng(4).normal(size=(5, 216))
    x = jnp.asarray(IMAGE)
    _close(ops.DenseMatrix.from_array(matrix, (9, 8, 3))(x), matrix @ IMAGE.ravel())
    both = matrix + 1j * matrix[::-1]
    _close(ops.DenseMatrix.from_array(both, (9, 8, 3))(x), both @ IMAGE.ravel())


BOUNDED = {
    "bicubic": lambda: ops.BicubicSuperResolution.create((8, 8, 1), 2),
    "blur": lambda: ops.Blur.create((8, 8, 1), jnp.full((3, 3), 0.2)),
    "mask": lambda: ops.Mask.half((8, 8, 1)),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_bounds_are_attained_by_some_image(name):
    operator = BOUNDED[name]()
    # |A x| is largest where x has the signs of a row of A.
    x = jax.random.normal(KEY, (8, 8, 1))
    rows = jax.jit(jax.jacrev(operator))(x).reshape(-1, 64)
    largest = jnp.max(jnp.abs(rows).sum(1))
    np.testing.assert_allclose(largest, operator.bound, **EXACT32)


@jax.jit
def _motion_kernels(intensity):
    draw = jax.vmap(lambda k: ops.motion_kernel(k, 15, intensity))
    return draw(jax.random.split(KEY, 32))


@pytest.mark.parametrize("intensity", [0.0, 0.5, 1.0])
def test_motion_kernels_are_kernels(intensity):
    kernels = np.asarray(_motion_kernels(intensity))
    assert np.all(kernels >= 0)
    np.testing.assert_allclose(kernels.sum((1, 2)), 1, **EXACT32)
    index = np.arange(15) - 7
    center = np.stack([(kernels.sum(2) @ index), (kernels.sum(1) @ index)], -1)
    np.testing.assert_allclose(center, 0, atol=1e-4)  # measured 4e-6
    # A path of 7 to 14 pixels' length, one or two pixels wide.
    support = (kernels > 0).sum((1, 2))
    assert support.min() >= 8 and support.max() <= 60
    assert np.abs(kernels[0] - kernels[1]).max() > 0.01


def test_motion_without_turning_is_a_straight_line():
    kernel = np.asarray(_motion_kernels(0.0))[0]
    row, col = np.indices((15, 15)) - 7
    spread = np.array(
        [
            [np.sum(kernel * row * row), np.sum(kernel * row * col)],
            [np.sum(kernel * row * col), np.sum(kernel * col * col)],
        ]
    )
    across, along = np.linalg.eigvalsh(spread)
    # Bilinear weights spread a line by at most 1/4 in each axis.
    assert across < 0.3 and along > 3
