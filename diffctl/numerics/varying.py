"""Values inside the `jax.shard_map` of a user, by the axes along which they vary.

There every value has a type that says along which axes of the mesh it differs between
devices, and the carry of a loop must not change its type. A loop that starts from a
constant and adds what differs would do so: let it start from a value that counts as
different everywhere.
"""

from typing import Any

import jax


def varying_alike(tree: Any) -> Any:
    """Return a pytree all of whose leaves vary along the axes along which one does.

    Outside `jax.shard_map` nothing varies, and the pytree is returned as it is.
    """
    axes = frozenset[str]().union(*map(_axes, jax.tree.leaves(tree)))

    def cast(leaf: Any) -> Any:
        missing = tuple(sorted(axes - _axes(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(cast, tree) if axes else tree


def _axes(leaf: Any) -> frozenset[str]:
    kind = getattr(jax.typeof(leaf), "manual_axis_type", None)
    return frozenset() if kind is None else kind.varying
