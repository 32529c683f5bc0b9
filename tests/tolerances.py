"""Tolerances by name; a test that needs a wider one says what it measured.

Use as `chex.assert_trees_all_close(found, expected, **EXACT64)`.
"""

import math

EXACT64 = {"rtol": 1e-10, "atol": 1e-12}  # algebra in float64
EXACT32 = {"rtol": 1e-5, "atol": 1e-6}  # the same in float32
REORDER32 = {"rtol": 1e-4, "atol": 1e-5}  # jit, vmap, chunks, shards against eager
FD64 = {"rtol": 1e-6, "atol": 1e-8}  # derivatives against central differences, float64

# Network parity. Divide both sides by the scale of the output first.
NET32 = {"rtol": 1e-4, "atol": 1e-4}
NET_BF16 = {"rtol": 3e-2, "atol": 3e-2}


def stat(n: int, k: float = 4.0) -> float:
    """Return k / sqrt(n): times the sample's standard deviation, a bound on the mean.

    State n and k where it is used, and fix the key.
    """
    return k / math.sqrt(n)
