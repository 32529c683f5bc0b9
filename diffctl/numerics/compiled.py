"""What the compiler says of a program before it runs."""

from typing import Any

import jax
from jax.errors import JaxRuntimeError

# XLA:CPU may hand chains of matrix products to a library whose buffers its analysis
# does not know: jaxlib 0.12.0 reports 0 bytes where 197 MB are used. Without these
# fusions the buffers are XLA's own, and counted.
_COUNTED = {"xla_cpu_experimental_ynn_fusion_type": ""}


def memory_analysis(lowered: jax.stages.Lowered) -> Any:
    """Compile a program for a forecast of its memory, and return XLA's analysis.

    The fields `argument_size_in_bytes`, `output_size_in_bytes` and
    `temp_size_in_bytes` add up to what a call needs.

    Args:
        lowered: `jax.jit(f).lower(*arguments)`.
    """
    try:
        compiled = lowered.compile(compiler_options=dict(_COUNTED))
    except JaxRuntimeError:  # an XLA that does not know the option: as it compiles
        compiled = lowered.compile()
    return compiled.memory_analysis()
