#!/usr/bin/env bash
# jax.random.poisson at large rates, jax 0.10.2 on Python 3.11 (CPU, float32 and x64).
#
# Its rejection sampler compares sums of logarithms in float32, also when double
# precision is enabled. They grow like rate * log(rate), so that from a rate of about
# 1e5 on their rounding decides which draws are accepted: the variance, which should
# equal the rate, is 2 % off at 1e6 and 45 % off at 1e8. Above 2^31 the draws are
# clipped to the largest int32: every draw is the same. Nothing is said.
#
# Output seen (200000 draws of key 0; variance / rate, then the share of the commonest):
#   1e+04 0.997 0.004
#   1e+06 1.020 0.001
#   1e+08 1.456 0.000
#   1e+10 0.000 1.000
#
# Exits 0 while that holds: the variance is right to 2 % at 1e4, off by more than 1 % at
# 1e6 and by more than 10 % at 1e8, and 0 at 1e10.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "jax==0.10.2" "jaxlib==0.10.2"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import sys

import jax
import jax.numpy as jnp
import numpy as np

found = {}
for rate in (1e4, 1e6, 1e8, 1e10):
    draws = jax.random.poisson(jax.random.key(0), jnp.full(200_000, rate))
    counts = np.asarray(draws).astype(np.float64)
    share = np.unique(counts, return_counts=True)[1].max() / counts.size
    found[rate] = counts.var() / rate
    print(f"{rate:.0e} {found[rate]:.3f} {share:.3f}")
sys.exit(
    not (
        abs(found[1e4] - 1) < 0.02
        and abs(found[1e6] - 1) > 0.01
        and abs(found[1e8] - 1) > 0.1
        and found[1e10] == 0
    )
)
PYTHON
