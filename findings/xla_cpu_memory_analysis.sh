#!/usr/bin/env bash
# jaxlib 0.12.0.1, CPU: the compiled program's memory analysis says 0 bytes of temporaries
# for sum(sin(a) @ cos(a)) with a = outer(x, x), x of 4000 numbers, though each of the three
# matrices has 64 MB and the process grows by about 197 MB when the program runs.
#
# The whole expression becomes one "ynn_fusion", computed by a library whose buffers the
# analysis does not know (in jaxlib 0.10.2 the same program reports 128 MB and grows by
# 258 MB). Compiled with the option xla_cpu_experimental_ynn_fusion_type="" the program has
# no such fusion and reports 192 MB. Who chooses a batch size by `memory_analysis()` on a CPU
# should compile the forecast with that option.
#
# Output seen:
#   as compiled: 0 bytes of temporaries, fused: True, process grew by 197 MB
#   without the fusion: 192 MB of temporaries
#
# Needs Python 3.12 or later (PYTHON=...). Exits with 1 if the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.12.0.1 jaxlib==0.12.0.1 numpy==2.5.1
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import resource
import sys

import jax
import jax.numpy as jnp
import numpy as np


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def total(x):
    a = jnp.outer(x, x)
    return jnp.sum(jnp.sin(a) @ jnp.cos(a))


x = np.ones(4000, np.float32)
lowered = jax.jit(total).lower(x)
compiled = lowered.compile()
reported = compiled.memory_analysis().temp_size_in_bytes
fused = "ynn_fusion" in compiled.as_text()
before = peak()
compiled(x).block_until_ready()
grown = peak() - before
print(
    f"as compiled: {reported} bytes of temporaries, fused: {fused}, "
    f"process grew by {grown / 1e6:.0f} MB"
)
plain = lowered.compile(compiler_options={"xla_cpu_experimental_ynn_fusion_type": ""})
counted = plain.memory_analysis().temp_size_in_bytes
print(f"without the fusion: {counted / 1e6:.0f} MB of temporaries")
sys.exit(not (reported == 0 and fused and grown > 100e6 and counted > 100e6))
PYTHON
