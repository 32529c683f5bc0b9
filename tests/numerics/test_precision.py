"""Host numbers as the device sees them."""

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.numerics.precision import as_computed


def test_numbers_lose_what_float32_cannot_hold():
    found = as_computed([1 - 1e-9, 1e-50, 1e-40, -1e-40, 1e39, -1e39])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [1, 0, 0, 0, np.inf, -np.inf])


def test_float64_holds_them():
    values = [1 - 1e-9, 1e-50, 1e39]
    with jax.enable_x64(True):
        np.testing.assert_array_equal(as_computed(values), values)


def test_device_arrays_keep_their_type():
    assert as_computed(jnp.asarray(0.1, jnp.bfloat16)).dtype == jnp.bfloat16
    assert as_computed(jnp.asarray(3)).dtype == np.float32
    assert as_computed(0.1, np.float64) == 0.1


def test_constants_are_seen_while_tracing():
    jax.jit(lambda x: x * float(as_computed(0.5)))(1.0)
