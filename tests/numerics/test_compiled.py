"""A forecast of memory counts the buffers that XLA's libraries keep to themselves."""

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.numerics.compiled import memory_analysis


def test_temporaries_of_matrix_products_are_counted():
    def total(x):
        a = jnp.outer(x, x)
        return jnp.sum(jnp.sin(a) @ jnp.cos(a))

    x = np.ones(64, np.float32)
    analysis = memory_analysis(jax.jit(total).lower(x))
    one_matrix = x.size**2 * x.itemsize
    assert analysis.argument_size_in_bytes == x.nbytes
    # The product needs both of its factors at once.
    assert 2 * one_matrix <= analysis.temp_size_in_bytes <= 4 * one_matrix


class _Unknown:
    """A program of a compiler that knows none of our options."""

    def compile(self, compiler_options=None):
        if compiler_options:
            raise jax.errors.JaxRuntimeError("No such compile option")
        return self

    def memory_analysis(self):
        return "as it compiles"


def test_a_compiler_without_the_option_is_asked_without_it():
    assert memory_analysis(_Unknown()) == "as it compiles"
