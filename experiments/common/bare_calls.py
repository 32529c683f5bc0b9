"""The network calls that a solver is compared with: nothing but the network."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

HIGHEST, LOWEST = 20.0, 0.02


def bare_calls(prior: Any, num_levels: int, cotangents: int) -> tuple[Any, Any]:
    """Return jitted scans of bare forwards and of forwards with a pull-back.

    Down the levels, as solvers go: at one level the compiler would take the embedding
    of the level out of the loop.
    """
    sigmas = jnp.geomspace(HIGHEST, LOWEST, num_levels)

    def forward(prior: Any, x: jax.Array) -> jax.Array:
        def body(x: jax.Array, sigma: jax.Array) -> tuple[jax.Array, None]:
            return 0.5 * prior.denoise(x, sigma), None

        return lax.scan(body, x, sigmas)[0]

    def with_pullback(prior: Any, x: jax.Array, cts: jax.Array) -> Any:
        def body(carry: Any, sigma: jax.Array) -> tuple[Any, None]:
            x, cts = carry
            out, pull = jax.vjp(lambda x: prior.denoise(x, sigma), x)
            cts = jax.vmap(lambda ct: pull(ct)[0])(cts)
            return (0.5 * out, 0.5 * cts), None

        return lax.scan(body, (x, cts), sigmas)[0]

    def one_cotangent(prior: Any, x: jax.Array, ct: jax.Array) -> Any:
        def body(carry: Any, sigma: jax.Array) -> tuple[Any, None]:
            x, ct = carry
            out, pull = jax.vjp(lambda x: prior.denoise(x, sigma), x)
            return (0.5 * out, 0.5 * pull(ct)[0]), None

        return lax.scan(body, (x, ct), sigmas)[0]

    pulled = one_cotangent if cotangents == 1 else with_pullback
    return jax.jit(forward), jax.jit(pulled)
