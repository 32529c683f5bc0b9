"""Values that checks may look at: numbers that are on this machine, not traced ones.

Checks compute with NumPy. Under `jax.jit` and its like, `jax.numpy` would trace them,
also where the arrays themselves are known.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def concrete(value: Any) -> np.ndarray | None:
    """Return a value as a NumPy array, or None where its numbers are not known here.

    That is so for tracers, for `jax.ShapeDtypeStruct`s, and for arrays parts of which
    are on the devices of other processes.
    """
    return np.asarray(value) if is_known(value) else None


def is_known(tree: Any) -> bool:
    """Return whether the numbers of all leaves of a pytree are known here."""
    return all(map(_is_known, jax.tree.leaves(tree)))


def _is_known(leaf: Any) -> bool:
    if isinstance(leaf, (jax.core.Tracer, jax.ShapeDtypeStruct)):
        return False
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable


def any_concrete(condition: Callable[..., Any], *values: Any) -> bool:
    """Return whether `condition(*values)` holds anywhere, in NumPy.

    False where one of the values is not known: what is traced is not checked.
    """
    known = [concrete(value) for value in values]
    if any(number is None for number in known):
        return False
    return bool(np.any(condition(*known)))
